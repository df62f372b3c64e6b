import { MercatoError } from '../../src/base/errors.ts';
import type { GrantKey } from '../../src/prediction/grants.ts';
import type { Admission } from '../../src/prediction/leases.ts';
import type { Books } from './books.ts';
import type { LetIn } from './conformity.ts';
import { LEASE_MS } from './market.ts';
import { MAINTAIN_MS, type Server, type Servers } from './servers.ts';
import type { Ended } from './settle.ts';
import { type Open, Truths, type Watched } from './truths.ts';
import type { World } from './world.ts';

export type CallStep = {
  kind: 'call';
  process: number;
  right: number;
  /** Nobody in particular where absent. */
  caller?: number;
  units: number;
  runMs: number;
  fails: boolean;
  keyed: boolean;
};
/** `truths`: what a refusal would say that was true at some moment since the call was sent, by the name of what refuses. */
export type Call = { id: string; idempotencyKey: string | null; key: GrantKey; units: number; server: Server; truths: Set<string> };

const DEADLINE_MS = 5_000;
const SOON_MS = 1_000;
const LATE_MS = 8_000;
const KNOWN = ['QUOTA_EXCEEDED', 'RATE_LIMITED', 'INSUFFICIENT_CREDIT', 'OVERLOADED', 'MODEL_FAILED', 'OUTCOME_UNKNOWN', 'UNAUTHENTICATED'];

/** The callers: each sends its call, sends a keyed one again where its end is not known, and knows whether what it is told is right. */
export class Calls {
  readonly wrong: string[] = [];
  readonly acknowledged = new Map<string, { id: string; amountNanos: bigint }>();
  unresolved = 0;
  readonly letIn: LetIn[] = [];
  private readonly waiting = new Set<Call>();
  private readonly open = new Set<Open>();
  private readonly truths: Truths;
  private readonly world: World;
  private readonly books: Books;
  private readonly servers: Servers;
  private count = 0;

  constructor(world: World, books: Books, servers: Servers) {
    [this.world, this.books, this.servers] = [world, books, servers];
    this.truths = new Truths(books, servers, this.open);
    servers.check = () => this.check();
  }

  issue(server: Server, step: CallStep): void {
    const key = this.books.market.keyOf(step.right, step.caller ?? 0);
    if (!server.process.alive) return;
    const id = `call-${++this.count}`;
    this.send({ id, idempotencyKey: step.keyed ? id : null, key, units: step.units, server, truths: new Set() }, step);
  }

  /** One try of a call. */
  private send(call: Call, step: CallStep): void {
    this.waiting.add(call);
    this.unresolved++;
    const { process } = call.server;
    let ended = false;
    const end = (): void => {
      if (ended) return;
      ended = true;
      this.unresolved--;
      this.waiting.delete(call);
    };
    const again = (): void => {
      const { alive } = this.servers;
      const server = alive[this.world.below(alive.length)];
      if (call.idempotencyKey === null || !server) return;
      this.world.at(this.world.now + this.world.below(300), () => this.send({ ...call, server, truths: new Set() }, step));
    };
    // The client of a process that is gone learns nothing.
    const watch = (): void => {
      if (ended) return;
      if (process.alive) this.world.at(this.world.now + 1_000, watch);
      else {
        end();
        again();
      }
    };
    watch();
    this.check();
    this.predict(call, step).then(
      (settled) => {
        if (ended) return;
        end();
        this.acknowledge(call, settled);
      },
      (error: unknown) => {
        if (ended) return;
        end();
        this.judge(call, error);
        if (error instanceof MercatoError && error.code === 'OUTCOME_UNKNOWN') again();
      },
    );
  }

  /** As `predict` does from its step 4 on. */
  private async predict(call: Call, step: CallStep): Promise<{ id: string; amountNanos: bigint }> {
    const { key, units, server } = call;
    const { process, leases, settlement } = server;
    const before = this.truths.inForce(key);
    const admission = this.watched(call, await leases.admit(key, units, DEADLINE_MS));
    const open: Open = { key, units: BigInt(units), admission, recordId: null };
    this.open.add(open);
    this.wrong.push(...this.truths.letIn(call, admission, before));
    // What is not settled is in flight to the others until it is back in the database: soon, or, where answers were lost, when its lease is swept.
    const over = (ms: number): void => this.world.at(this.world.now + ms, () => void this.open.delete(open));
    // What a process that ended held is free when it is swept; nobody hears of its end.
    const swept = (): void => {
      if (process.alive) this.world.at(this.world.now + 1_000, swept);
      else over(LEASE_MS + 2 * MAINTAIN_MS);
    };
    swept();
    await process.sleep(step.runMs);
    if (step.fails) {
      admission.giveBack(step.runMs > 3);
      over(this.servers.isQuiet ? SOON_MS : LATE_MS);
      throw new MercatoError('MODEL_FAILED');
    }
    const id = `${call.id}-${this.world.below(1e9)}`;
    open.recordId = id;
    let known = false;
    try {
      const settled = await settlement.settle(endedOf(call, id, admission));
      known = settled.stored === null;
      return settled.stored === null
        ? { id, amountNanos: settled.amountNanos }
        : { id: settled.stored.recordId, amountNanos: settled.stored.amountNanos };
    } finally {
      if (known) this.open.delete(open);
      else over(this.servers.isQuiet ? SOON_MS : LATE_MS);
    }
  }

  /** An admission whose end is known to who judges what is in flight. */
  private watched({ server, key, units }: Call, admission: Admission): Watched {
    const { requests, lessees } = this.books;
    const lessee = lessees.get(admission.leaseId);
    const move = (by: number) => lessee && requests.moveIdle(server.process.id, lessee, by);
    move(-1);
    const letIn = { key, counterIds: admission.counterIds, atMs: this.world.now, units, isMade: true, isUsed: true };
    this.letIn.push(letIn);
    const watched: Watched = {
      ...admission,
      isRunning: true,
      giveBack(spent = false) {
        watched.isRunning = false;
        if (!spent) move(1);
        Object.assign(letIn, { isMade: spent, isUsed: false });
        admission.giveBack(spent);
      },
      forfeit() {
        watched.isRunning = false;
        move(1);
        Object.assign(letIn, { isMade: false, isUsed: false });
        admission.forfeit();
      },
      settled() {
        watched.isRunning = false;
        admission.settled();
      },
    };
    return watched;
  }

  private acknowledge(call: Call, settled: { id: string; amountNanos: bigint }): void {
    const record = this.books.records.get(settled.id);
    if (record?.amountNanos !== settled.amountNanos)
      this.wrong.push(`${call.id} was acknowledged and is not billed so: ${settled.amountNanos}`);
    const known = this.acknowledged.get(call.id);
    if (known && known.id !== settled.id) this.wrong.push(`${call.id} has two answers`);
    this.acknowledged.set(call.id, settled);
  }

  /** A refusal must be true: of a quota, a limit or a wallet only where what is used and in flight filled it at some moment while the call waited. */
  private judge(call: Call, error: unknown): void {
    const code = error instanceof MercatoError ? error.code : String(error);
    if (!KNOWN.includes(code)) this.wrong.push(`${call.id} failed: ${code}`);
    if (code === 'UNAUTHENTICATED' && !this.books.market.revoked.has(call.key.apiKeyId ?? ''))
      this.wrong.push(`${call.id} failed: ${code}`);
    const name = this.refusing(error);
    if (name === null) return;
    this.truths.note(call);
    if (!call.truths.has(name)) this.wrong.push(`${call.id} was refused, ${code} of ${name}, which was not true`);
  }

  /** The name of what refused a call: a limit, the plan, its rate or the wallet; null for any other end. */
  private refusing(error: unknown): string | null {
    if (!(error instanceof MercatoError)) return null;
    if (error.code === 'INSUFFICIENT_CREDIT') return 'credit';
    if (error.code !== 'QUOTA_EXCEEDED' && error.code !== 'RATE_LIMITED') return null;
    const { limitName } = error.data;
    if (limitName === 'plan-requests' || limitName === 'own-calls') return 'rate';
    return limitName ?? null;
  }

  /** Runs after every transaction. */
  check(): void {
    this.wrong.push(...this.books.broken(), ...this.truths.overdrawn());
    for (const call of this.waiting) this.truths.note(call);
  }
}

function endedOf({ key, units, idempotencyKey }: Call, id: string, admission: Admission): Ended {
  const { consumerTenantId, publisherTenantId, listingId, subscriptionId, memberId, apiKeyId, terms } = key;
  const keyed = idempotencyKey && {
    ...{ tenantId: consumerTenantId, key: idempotencyKey, digest: Buffer.alloc(0), answer: null, storeKey: null },
  };
  const metered = {
    ...{ id, consumerTenantId, publisherTenantId, listingId, modelId: '', modelVersionId: '', subscriptionId },
    ...{ planVersionId: terms?.planVersionId ?? null, apiKeyId, userId: memberId },
    ...{ units, rows: units, runs: 1, computeMicros: 0n, bytesIn: 0, bytesOut: 0 },
  };
  return { admission, metered, keyed: keyed || null, key };
}
