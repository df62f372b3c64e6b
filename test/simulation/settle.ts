import { priceOf } from '../../src/billing/billing.ts';
import type { GrantKey } from '../../src/prediction/grants.ts';
import type { Finished } from '../../src/prediction/settlement.ts';
import type { Outcome } from '../../src/prediction/settlement-store.ts';
import { type Books, type Counter, holdOf, type Lease } from './books.ts';
import { violated, walletId } from './ledger.ts';

export type Ended = Finished & { key: GrantKey };

/** As `mercato_settle`: the whole group or nothing. */
export function settle(books: Books, group: readonly Ended[]): Outcome[] {
  const isRevoked = ({ key }: Ended) => key.apiKeyId !== null && books.market.revoked.has(key.apiKeyId);
  const claimed = new Set(books.keys.keys());
  const billed = group.filter((call) => {
    const name = nameOf(call);
    if (isRevoked(call) || (name !== null && claimed.has(name))) return false;
    if (name !== null) claimed.add(name);
    return true;
  });
  const swept = (calls: readonly Ended[]) => calls.filter(({ admission }) => !books.leases.has(admission.leaseId));
  checkUnits(books, swept(group));
  checkQuotas(books, swept(group));
  if (billed.some(({ admission }) => books.ledger.closed.has(admission.period))) throw violated('MC003');
  checkWallets(books, swept(billed));
  checkSpend(books, billed);
  const amounts = new Map(billed.map((call) => [call.metered.id, bill(books, call)]));
  charge(books, billed, amounts);
  return group.map((call) => {
    const { id } = call.metered;
    const amountNanos = amounts.get(id);
    if (amountNanos !== undefined) return { id, outcome: 'BILLED', amountNanos };
    return { id, outcome: isRevoked(call) ? 'REVOKED' : 'LOST', amountNanos: 0n };
  });
}

const nameOf = ({ keyed }: Ended) => keyed && `${keyed.tenantId}:${keyed.key}`;

/** Calls whose lease was swept need room of their own. */
function checkUnits(books: Books, swept: readonly Ended[]): void {
  const taken = swept.map(({ admission, metered }) => ({ counterIds: admission.counterIds, more: BigInt(metered.units) }));
  if (!books.limits.hasRoomFor('UNITS', taken)) throw violated('MC002');
}

/** What calls cost beyond what their leases held, since others had the free units, needs room of its own. */
function checkSpend(books: Books, billed: readonly Ended[]): void {
  const used = new Map<Counter, bigint>();
  const left = new Map<Lease, { units: bigint; nanos: bigint }>();
  const taken = billed.map(({ admission, metered, key }) => {
    const counter = books.counterOf(key, admission.period);
    const from = used.get(counter) ?? counter.used;
    const to = from + BigInt(metered.units);
    used.set(counter, to);
    const amount = priceOf(key.terms, to) - priceOf(key.terms, from);
    const lease = books.leases.get(admission.leaseId);
    if (!lease) return { counterIds: admission.counterIds, more: amount };
    const before = left.get(lease) ?? lease;
    const units = before.units - BigInt(metered.units);
    const nanos = books.keptNanos(lease, before.nanos - amount, units);
    left.set(lease, { units, nanos });
    return { counterIds: admission.counterIds, more: amount - before.nanos + nanos };
  });
  if (!books.limits.hasRoomFor('SPEND', taken)) throw violated('MC002');
}

/** So do they of quotas. */
function checkQuotas(books: Books, swept: readonly Ended[]): void {
  const sums = new Map<Counter, bigint>();
  for (const { admission, metered, key } of swept) {
    const counter = books.counterOf(key, admission.period);
    const sum = (sums.get(counter) ?? 0n) + BigInt(metered.units);
    sums.set(counter, sum);
    if (counter.quota !== null && counter.used + counter.leased + sum > counter.quota) throw violated('MC001');
  }
}

/** No wallet may be short after it: what leased calls cost is held already. */
function checkWallets(books: Books, swept: readonly Ended[]): void {
  const due = new Map<string, bigint>();
  const sums = new Map<Counter, bigint>();
  for (const { admission, metered, key } of swept) {
    const counter = books.counterOf(key, admission.period);
    const terms = books.market.termsOf(counter.planVersionId);
    const [from, units] = [counter.used + (sums.get(counter) ?? 0n), BigInt(metered.units)];
    sums.set(counter, (sums.get(counter) ?? 0n) + units);
    const amount = priceOf(key.terms, from + units) - priceOf(key.terms, from);
    const held = holdOf(terms, { ...counter, used: from + units }) - holdOf(terms, { ...counter, used: from });
    due.set(key.consumerTenantId, (due.get(key.consumerTenantId) ?? 0n) + amount + held);
  }
  for (const [tenantId, nanos] of due) if ((books.ledger.available(walletId(tenantId)) ?? 0n) < nanos) throw violated('23514');
}

function bill(books: Books, call: Ended): bigint {
  const { admission, metered, key } = call;
  const counter = books.counterOf(key, admission.period);
  const units = BigInt(metered.units);
  const lease = books.leases.get(admission.leaseId);
  const amountNanos = priceOf(key.terms, counter.used + units) - priceOf(key.terms, counter.used);
  const wallet = books.walletOf(key.consumerTenantId);
  const terms = books.market.termsOf(counter.planVersionId);
  const before = holdOf(terms, counter);
  counter.used += units;
  if (lease) {
    counter.leased -= units;
    lease.units -= units;
    if (lease.units < 0n) books.wrong.push(`more of ${admission.leaseId} was settled than was leased`);
  }
  wallet.held += holdOf(terms, counter) - before;
  const kept = lease && books.keptNanos(lease, lease.nanos - amountNanos, lease.units);
  books.limits.count(admission.counterIds, units, amountNanos, lease && kept !== undefined ? lease.nanos - kept : null);
  if (lease && kept !== undefined) lease.nanos = kept;
  const keyed = nameOf(call);
  if (keyed !== null) books.keys.set(keyed, metered.id);
  const { period } = admission;
  books.records.set(metered.id, { id: metered.id, key, period, units, amountNanos, keyed, createdAt: books.world.now });
  return amountNanos;
}

/** One charge for each subscription and period of the group. */
function charge(books: Books, billed: readonly Ended[], amounts: ReadonlyMap<string, bigint>): void {
  const due = new Map<string, { call: Ended; nanos: bigint }>();
  for (const call of billed) {
    const name = `${call.key.subscriptionId}:${call.admission.period}`;
    due.set(name, { call, nanos: (due.get(name)?.nanos ?? 0n) + (amounts.get(call.metered.id) ?? 0n) });
  }
  for (const { call, nanos } of due.values()) {
    const { key, admission, metered } = call;
    if (nanos > 0n) books.ledger.charge(`charge-${metered.id}`, key.consumerTenantId, key.subscriptionId ?? '', admission.period, nanos);
  }
}
