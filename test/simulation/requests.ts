import { type GrantKey, rateOf } from '../../src/prediction/grants.ts';
import type { UnmadeRequests } from '../../src/usage/usage.ts';

type Rate = NonNullable<ReturnType<typeof rateOf>>;

/** What a process knows as one entry: requests are taken, and go back, for it alone. */
export const entryOf = ({ consumerTenantId, listingId, subscriptionId, terms, memberId, apiKeyId }: GrantKey) =>
  [consumerTenantId, listingId, subscriptionId, terms?.planVersionId, memberId, apiKeyId].join(':');

/** Between what numbers of requests are ahead, by what was taken alone: as if the slowest rate had always held, and nothing come back, or the fastest, and all come back. */
type Bounds = { most: number; least: number; atMs: number; burst: number; fastestMs: number; slowestMs: number };
const UNBOUND: Bounds = { most: 0, least: 0, atMs: 0, burst: 0, fastestMs: Number.POSITIVE_INFINITY, slowestMs: Number.MIN_VALUE };
type Row = { arrivalAt: number; cellMs: number };

/** `rate_limit`, and beside it what became of each request that was taken: with a process, made, or put back. */
export class Requests {
  readonly wrong: string[] = [];
  private readonly rows = new Map<string, Row>();
  private readonly bounds = new Map<string, Bounds>();
  /** Requests that a process has and has not made, by process and entry. */
  private readonly idle = new Map<string, number>();
  private readonly now: () => number;

  constructor(now: () => number) {
    this.now = now;
  }

  /** How many conform now. */
  roomOf(key: GrantKey): number {
    const rate = rateOf(key.terms);
    if (rate === null) return Number.POSITIVE_INFINITY;
    const { aheadMs, cellMs } = this.rowFor(key, rate);
    return Math.max(0, Math.floor(rate.burst - aheadMs / cellMs + 1e-6));
  }

  /** As the row is told of who asks: of a slower rate, what is ahead is as many requests of this one. */
  private rowFor(key: GrantKey, rate: Rate): { aheadMs: number; cellMs: number } {
    const { arrivalAt, cellMs } = this.rows.get(nameOf(key)) ?? { arrivalAt: 0, cellMs: cellMsOf(rate) };
    const aheadMs = Math.max(0, arrivalAt - this.now());
    const fasterMs = Math.min(cellMs, cellMsOf(rate));
    return { aheadMs: aheadMs * (fasterMs / cellMs), cellMs: fasterMs };
  }

  /** An entry asks, whether or not it is granted anything. */
  ask(key: GrantKey): void {
    const rate = rateOf(key.terms);
    if (rate === null) return;
    const { aheadMs, cellMs } = this.rowFor(key, rate);
    this.rows.set(nameOf(key), { arrivalAt: this.now() + aheadMs, cellMs });
    const { burst, fastestMs, slowestMs, ...known } = this.boundsOf(key);
    this.bounds.set(nameOf(key), {
      ...{ ...known, burst: Math.max(burst, rate.burst) },
      ...{ fastestMs: Math.min(fastestMs, cellMsOf(rate)), slowestMs: Math.max(slowestMs, cellMsOf(rate)) },
    });
  }

  take(processId: string, key: GrantKey, requests: number): void {
    const rate = rateOf(key.terms);
    if (rate === null) return;
    const { aheadMs, cellMs } = this.rowFor(key, rate);
    const arrivalAt = this.now() + (aheadMs / cellMs + requests) * cellMsOf(rate);
    this.rows.set(nameOf(key), { arrivalAt, cellMs: cellMsOf(rate) });
    const { most, least, ...known } = this.boundsOf(key);
    this.bounds.set(nameOf(key), { ...known, most: most + requests, least: least + requests });
    if (least + requests > known.burst + 1e-6)
      this.wrong.push(`${nameOf(key)} was granted ${least + requests} requests of a burst of ${known.burst}`);
    this.moveIdle(processId, key, requests);
  }

  private boundsOf(key: GrantKey): Bounds {
    const { most, least, atMs, ...known } = this.bounds.get(nameOf(key)) ?? UNBOUND;
    const sinceMs = this.now() - atMs;
    const left = (requests: number, cellMs: number) => Math.max(0, requests - sinceMs / cellMs);
    return { most: left(most, known.slowestMs), least: left(least, known.fastestMs), atMs: this.now(), ...known };
  }

  putBack(processId: string, key: GrantKey, rate: Rate, unmade: readonly UnmadeRequests[]): void {
    const row = this.rows.get(nameOf(key)) ?? { arrivalAt: 0, cellMs: cellMsOf(rate) };
    const fasterMs = Math.min(row.cellMs, cellMsOf(rate));
    for (const { requests, granted, takenAt, admitted } of unmade) {
      const agoMs = admitted ? this.now() - takenAt * 1000 : 0;
      row.arrivalAt -= (stillMs(requests, granted, agoMs, fasterMs) / fasterMs) * row.cellMs;
      this.moveIdle(processId, key, -requests);
    }
    this.rows.set(nameOf(key), row);
    const bounds = this.boundsOf(key);
    this.bounds.set(nameOf(key), { ...bounds, least: Math.max(0, bounds.least - unmade.reduce((sum, { requests }) => sum + requests, 0)) });
  }

  /** `by`: −1 for a call that takes its request, 1 for one that did not make it. */
  moveIdle(processId: string, key: GrantKey, by: number): void {
    if (rateOf(key.terms) === null) return;
    const name = `${processId} ${entryOf(key)}`;
    const idle = (this.idle.get(name) ?? 0) + by;
    this.idle.set(name, idle);
    if (idle < 0) this.wrong.push(`${name} made, or put back, ${-idle} requests more than it had`);
  }

  /** Whether a caller of a process would rightly be refused: the rate is used up, and none of its requests lies unmade in an entry that may be the caller's. */
  refuses(processId: string, key: GrantKey): boolean {
    if (this.roomOf(key) > 0 || this.boundsOf(key).most + 1 + 1e-6 <= (rateOf(key.terms)?.burst ?? 0)) return false;
    const members = key.memberId === null ? [null] : [null, key.memberId];
    const keys = key.apiKeyId === null ? [null] : [null, key.apiKeyId];
    return members.some((memberId) =>
      keys.some((apiKeyId) => (this.idle.get(`${processId} ${entryOf({ ...key, memberId, apiKeyId })}`) ?? 0) === 0),
    );
  }

  /** Requests that nobody made, and that were not put back. */
  lost(): string[] {
    return [...this.idle].flatMap(([name, idle]) => (idle === 0 ? [] : [`${name} keeps ${idle} requests for ever`]));
  }
}

const nameOf = ({ consumerTenantId, listingId }: GrantKey) => `${consumerTenantId}:${listingId}`;
/** Of `count` cells of `granted`, which began to run off `agoMs` ago, what has not. */
export const stillMs = (count: number, granted: number, agoMs: number, cellMs: number) =>
  Math.min(count * cellMs, Math.max(0, granted * cellMs - agoMs));
const cellMsOf = ({ requestsPerMinute }: Rate) => 60_000 / requestsPerMinute;
