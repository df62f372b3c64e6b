import { type GrantKey, rateOf } from '../../src/prediction/grants.ts';
import type { UnmadeRequests } from '../../src/usage/usage.ts';

type Rate = NonNullable<ReturnType<typeof rateOf>>;

/** What a process knows as one entry: requests are taken, and go back, for it alone. */
export const entryOf = ({ consumerTenantId, listingId, subscriptionId, terms, memberId, apiKeyId }: GrantKey) =>
  [consumerTenantId, listingId, subscriptionId, terms?.planVersionId, memberId, apiKeyId].join(':');

/** `rate_limit`, and beside it what became of each request that was taken: with a process, made, or put back. */
export class Requests {
  readonly wrong: string[] = [];
  private readonly arrivals = new Map<string, number>();
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
    const aheadMs = Math.max(0, (this.arrivals.get(nameOf(key)) ?? 0) - this.now());
    return Math.max(0, Math.floor(rate.burst - aheadMs / cellMs(rate) + 1e-6));
  }

  take(processId: string, key: GrantKey, requests: number): void {
    const rate = rateOf(key.terms);
    if (rate === null) return;
    const arrivalAt = Math.max(this.arrivals.get(nameOf(key)) ?? 0, this.now());
    this.arrivals.set(nameOf(key), arrivalAt + requests * cellMs(rate));
    this.moveIdle(processId, key, requests);
  }

  putBack(processId: string, key: GrantKey, rate: Rate, unmade: readonly UnmadeRequests[]): void {
    for (const { requests, granted, takenAt, admitted } of unmade) {
      const agoMs = admitted ? this.now() - takenAt * 1000 : 0;
      this.arrivals.set(nameOf(key), (this.arrivals.get(nameOf(key)) ?? 0) - stillMs(requests, granted, agoMs, cellMs(rate)));
      this.moveIdle(processId, key, -requests);
    }
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
    if (this.roomOf(key) > 0) return false;
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
const cellMs = ({ requestsPerMinute }: Rate) => 60_000 / requestsPerMinute;
