import type { GrantKey } from '../../src/prediction/grants.ts';
import type { LimitedCaller } from '../../src/usage/usage.ts';

type Terms = NonNullable<GrantKey['terms']>;
type Offer = Pick<Terms, 'unitPriceNanos' | 'freeUnits' | 'quotaUnits' | 'requestsPerMinute' | 'burst'>;

/** Simulated months and leases are short, so that schedules cross their ends. */
export const PERIOD_MS = 20_000;
export const LEASE_MS = 2_000;
export const MARGIN_MS = 700;
export const TENANTS = ['one', 'two'] as const;
export const CREDIT_NANOS = 150n;
export const COMMISSION_BPS = 1_500n;

/** Who calls: nobody in particular, a member, and keys, the first of them that member's. */
const CALLERS = [
  { memberId: null, apiKeyId: null },
  { memberId: 'ada', apiKeyId: null },
  { memberId: 'ada', apiKeyId: 'key-of-ada' },
  { memberId: 'ben', apiKeyId: 'key-of-ben' },
] as const;

const NO_RATE = { requestsPerMinute: null, burst: null };
/** Each listing with its consumer and plan; tenant two has several under one wallet; null: its publisher's own calls. */
const LISTINGS: readonly [consumer: string, listing: string, offer: Offer | null][] = [
  ['one', 'quota', { unitPriceNanos: 0n, freeUnits: 0n, quotaUnits: 25n, ...NO_RATE }],
  ['two', 'priced', { unitPriceNanos: 3n, freeUnits: 5n, quotaUnits: null, ...NO_RATE }],
  ['two', 'both', { unitPriceNanos: 7n, freeUnits: 0n, quotaUnits: 12n, ...NO_RATE }],
  ['two', 'rated', { unitPriceNanos: 1n, freeUnits: 0n, quotaUnits: null, requestsPerMinute: 120, burst: 2 }],
  ['one', 'quick', { unitPriceNanos: 0n, freeUnits: 0n, quotaUnits: 40n, requestsPerMinute: 600, burst: 4 }],
  ['one', 'own', null],
];

function rightOf(consumer: string, listing: string, offer: Offer | null): GrantKey {
  const terms = offer && { planVersionId: `plan-${listing}`, currency: 'EUR', priority: 0, alias: null, ...offer };
  return {
    ...{ consumerTenantId: consumer, publisherTenantId: offer ? 'publisher' : consumer, listingId: listing, handle: listing, terms },
    ...{ subscriptionId: offer && `subscription-${listing}`, memberId: null, apiKeyId: null },
  };
}

function rateAfter({ requestsPerMinute, burst }: Terms, isFaster: boolean): Pick<Terms, 'requestsPerMinute' | 'burst'> {
  if (requestsPerMinute === null || burst === null) return NO_RATE;
  if (isFaster) return { requestsPerMinute: requestsPerMinute * 4, burst: burst * 2 };
  return { requestsPerMinute: Math.max(1, Math.floor(requestsPerMinute / 5)), burst: Math.max(1, burst - 1) };
}

/** Who subscribes to what under which terms, and who may call. */
export class Market {
  readonly plans = new Map<string, Terms>();
  readonly revoked = new Set<string>();
  private readonly rights: GrantKey[] = LISTINGS.map((listing) => rightOf(...listing));
  private followers = 0;

  constructor() {
    for (const { terms } of this.rights) if (terms) this.plans.set(terms.planVersionId, terms);
  }

  keyOf(right: number, caller: number): GrantKey {
    const known = CALLERS[caller % CALLERS.length];
    const by = known === undefined || (known.apiKeyId !== null && this.revoked.has(known.apiKeyId)) ? CALLERS[0] : known;
    return { ...(this.rights[right % this.rights.length] as GrantKey), ...by };
  }

  revoke(caller: number): void {
    const key = CALLERS[caller % CALLERS.length]?.apiKeyId ?? null;
    if (key !== null) this.revoked.add(key);
  }

  /** From now on another subscription to the same listing is the one that calls are under: of the same plan, or of one that costs more, and is faster or slower. */
  follow(right: number, samePlan: boolean): void {
    const index = right % this.rights.length;
    const known = this.rights[index];
    if (!known?.terms) return;
    const number = ++this.followers;
    const dearer: Terms = {
      ...{ ...known.terms, planVersionId: `plan-${known.listingId}-${number}`, unitPriceNanos: known.terms.unitPriceNanos + 2n },
      quotaUnits: known.terms.quotaUnits && known.terms.quotaUnits + 4n,
      ...rateAfter(known.terms, number % 2 === 1),
    };
    const terms = samePlan ? known.terms : dearer;
    this.plans.set(terms.planVersionId, terms);
    this.rights[index] = { ...known, terms, subscriptionId: `subscription-${known.listingId}-${number}` };
  }

  termsOf(planVersionId: string | null): Terms | null {
    return planVersionId === null ? null : (this.plans.get(planVersionId) ?? null);
  }

  /** The id of a subject of tenant two's limits: itself, its subscription of a listing, a member, a key. */
  subjectOf(subject: 'TENANT' | 'SUBSCRIPTION' | 'MEMBER' | 'API_KEY', number: number): string {
    if (subject === 'SUBSCRIPTION') return this.rights[1 + (number % 3)]?.subscriptionId ?? '';
    if (subject === 'MEMBER') return number % 2 === 0 ? 'ada' : 'ben';
    if (subject === 'API_KEY') return number % 2 === 0 ? 'key-of-ada' : 'key-of-ben';
    return 'two';
  }
}

/** Every subscription's id names its listing. */
const listingOf = (subscriptionId: string) => subscriptionId.split('-')[1];

type Subject = { tenantId: string; subject: string; subjectId: string };

/** Whether what is about a subject concerns a caller, or a record of one. */
export function concerns({ tenantId, subject, subjectId }: Subject, caller: LimitedCaller): boolean {
  if (tenantId !== caller.consumerTenantId) return false;
  if (subject === 'SUBSCRIPTION') return caller.listingId === listingOf(subjectId);
  if (subject === 'MEMBER') return caller.memberId === subjectId;
  if (subject === 'API_KEY') return caller.apiKeyId === subjectId;
  return true;
}
