import { MercatoError } from '../base/errors.ts';

/** A call that its runner refused, or that would be sent now: `deadlineMs` is the time that it had, or has; `bytes`: of its inputs. */
export type Asking = { tenantKey: string; priority: number; deadlineMs: number; rows: number; bytes: number };
export type Refusal = { message: string; data: { rule?: string; retryAfterMs?: number } };

type Refused = Asking & Refusal & { untilMs: number };

/** The longest that a refusal is believed without asking again. What a runner says is not trusted. */
export const REFUSES_MS_MAX = 10;
/** Calls of one moment have times that differ by what was done between them. */
const SAME_MS = 1;
const TENANTS_MAX = 1_000;

/**
 * What a runner refused a moment ago for its load. While it has more to do than a call can wait for, that call and those like it need not be sent: what an
 * overloaded host does for calls that it does not answer is lost for the others.
 */
export class Refusals {
  readonly #byTenant = new Map<string, Refused>();

  /** Remembers the refusal of a call for `forMs`, at most REFUSES_MS_MAX; of a tenant the last one. */
  add(call: Asking, refusal: Refusal, forMs: number): void {
    if (!(forMs > 0)) return;
    if (this.#byTenant.size >= TENANTS_MAX) this.#byTenant.clear();
    this.#byTenant.set(call.tenantKey, { ...call, ...refusal, untilMs: performance.now() + Math.min(forMs, REFUSES_MS_MAX) });
  }

  /** The refusal of a call that asks for no less, with no more priority and time, than one of its tenant that was refused; null: ask. */
  of({ tenantKey, priority, deadlineMs, rows, bytes }: Asking): MercatoError | null {
    const refused = this.#of(tenantKey);
    if (refused === undefined || rows < refused.rows || bytes < refused.bytes) return null;
    if (priority > refused.priority || deadlineMs > refused.deadlineMs + SAME_MS) return null;
    return new MercatoError('OVERLOADED', refused.message, refused.data);
  }

  /** Whether a call of the tenant is remembered: another runner is asked first. */
  has(tenantKey: string): boolean {
    return this.#of(tenantKey) !== undefined;
  }

  #of(tenantKey: string): Refused | undefined {
    const refused = this.#byTenant.get(tenantKey);
    if (refused === undefined || performance.now() < refused.untilMs) return refused;
    this.#byTenant.delete(tenantKey);
    return undefined;
  }
}
