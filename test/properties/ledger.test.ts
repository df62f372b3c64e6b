import { array, assert, asyncProperty, constantFrom, nat, oneof, record } from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { asSystem } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { priceOf } from '../../src/billing/billing.ts';
import type { Admission } from '../../src/prediction/leases.ts';
import { booksOf, broken, type Core, codeOf, finished, openCore, type Process, type Right, type Terms } from '../support/core.ts';

let core: Core;
let processes: Process[];
beforeAll(async () => {
  core = await openCore();
  processes = [await core.process(), await core.process()];
});
afterAll(() => core[Symbol.asyncDispose]());

const PLANS: { terms: Terms; creditNanos: bigint }[] = [
  { terms: { unitPriceNanos: 3n, freeUnits: 10n }, creditNanos: 100n },
  { terms: { unitPriceNanos: 7n, quotaUnits: 40n }, creditNanos: 1_000n },
  { terms: { quotaUnits: 25n, freeUnits: 5n }, creditNanos: 0n },
];

const action = oneof(
  record({ kind: constantFrom('admit' as const), process: nat(1), plan: nat(PLANS.length - 1), units: constantFrom(1, 2, 5, 9, 20) }),
  record({ kind: constantFrom('settle' as const, 'giveBack' as const), call: nat(99) }),
  record({ kind: constantFrom('settle' as const), call: nat(99) }),
  record({ kind: constantFrom('expire' as const, 'maintain' as const, 'month' as const), process: nat(1) }),
  record({ kind: constantFrom('addCredit' as const), plan: nat(PLANS.length - 1), nanos: constantFrom(1, 50) }),
);
type Action = typeof action extends { generate(...args: never[]): { value: infer T } } ? T : never;

type Open = { process: Process; account: Account; admission: Admission };
/** What the market must agree with: units settled by period, and money paid in and out. */
type Account = { right: Right; used: Map<string, bigint>; balance: bigint };

let clock = Date.parse('2026-11-15T12:00:00Z');

/** One schedule, and beside it a plain count of what it must come to. */
class Schedule {
  private open: Open[] = [];
  private readonly accounts: Account[];

  constructor(accounts: Account[]) {
    this.accounts = accounts;
  }

  async step(given: Action): Promise<void> {
    if (given.kind === 'admit') await this.admit(at(processes, given.process), at(this.accounts, given.plan), given.units);
    else if (given.kind === 'addCredit') await this.addCredit(at(this.accounts, given.plan), BigInt(given.nanos));
    else if ('call' in given) {
      const [call] = this.open.length === 0 ? [] : this.open.splice(given.call % this.open.length, 1);
      if (call) await (given.kind === 'settle' ? this.settle(call) : this.giveBack(call));
    } else {
      if (given.kind === 'expire') await moveClock(clock + 3_000);
      if (given.kind === 'month') await moveClock(Date.UTC(new Date(clock).getUTCFullYear(), new Date(clock).getUTCMonth() + 1));
      await at(processes, given.process).leases.maintain();
    }
    expect(await broken(core.db)).toEqual([]);
  }

  private async admit(process: Process, account: Account, units: number): Promise<void> {
    const { right } = account;
    const admitted: Admission[] = [];
    // A lease that another process lost the memory of holds the rest until it is swept: a short wait, then OVERLOADED.
    const code = await codeOf(async () => admitted.push(await process.leases.admit(right, units, 50)));
    for (const admission of admitted) this.open.push({ process, account, admission });
    const period = new Date(clock).toISOString().slice(0, 7);
    const wanted = this.inFlight(account);
    if (code !== 'OK') wanted.set(period, (wanted.get(period) ?? 0n) + BigInt(units));
    const used = (month: string) => account.used.get(month) ?? 0n;
    if (code === 'QUOTA_EXCEEDED') {
      expect(used(period) + (wanted.get(period) ?? 0n)).toBeGreaterThan(right.terms?.quotaUnits ?? 0n);
    } else if (code === 'INSUFFICIENT_CREDIT') {
      let due = 0n;
      for (const [month, more] of wanted) due += priceOf(right.terms, used(month) + more) - priceOf(right.terms, used(month));
      expect(due).toBeGreaterThan(account.balance);
    } else expect(['OK', 'OVERLOADED']).toContain(code);
  }

  /** Units of this account's open calls, by period. */
  private inFlight(account: Account): Map<string, bigint> {
    const units = new Map<string, bigint>();
    for (const { admission, account: owner } of this.open) {
      if (owner === account) units.set(admission.period, (units.get(admission.period) ?? 0n) + BigInt(admission.units));
    }
    return units;
  }

  private async settle({ process, account, admission }: Open): Promise<void> {
    const { right, used } = account;
    const leased = await asSystem(core.db, (tx) => tx.lease.count({ where: { id: admission.leaseId } }));
    const settled = await process.settlement.settle(finished(right, admission)).catch((error: unknown) => error);
    if (settled instanceof Error) {
      expect(leased, 'only a call whose lease was swept is refused').toBe(0);
      return expect(settled).toMatchObject({ code: 'OVERLOADED' });
    }
    const before = used.get(admission.period) ?? 0n;
    const after = before + BigInt(admission.units);
    const amountNanos = priceOf(right.terms, after) - priceOf(right.terms, before);
    expect(settled).toEqual({ amountNanos, stored: null });
    used.set(admission.period, after);
    account.balance -= amountNanos;
  }

  private async giveBack({ process, admission }: Open): Promise<void> {
    admission.giveBack();
    await process.leases.maintain();
  }

  private async addCredit(account: Account, amountNanos: bigint): Promise<void> {
    await core.billing.addCredit({ id: account.right.consumerTenantId }, { amountNanos, note: null, idempotencyKey: newId() });
    account.balance += amountNanos;
  }

  /** Everything ends: nothing may stay leased or held, and the books are what was counted. */
  async finish(): Promise<void> {
    for (const call of this.open.splice(0)) await this.giveBack(call);
    await moveClock(clock + 3_000);
    for (const process of processes) await process.leases.maintain();
    for (const process of processes) await process.leases.maintain();
    for (const { right, used, balance } of this.accounts) {
      for (const [period, units] of used) expect(await booksOf(core.db, right, period)).toMatchObject({ used: units, leased: 0n });
      expect(await booksOf(core.db, right)).toMatchObject({ balance, held: 0n });
    }
    expect(await broken(core.db)).toEqual([]);
  }
}

function at<T>(list: readonly T[], i: number): T {
  const found = list[i];
  if (found === undefined) throw new RangeError(`no item ${i}`);
  return found;
}

async function moveClock(ms: number): Promise<void> {
  clock = ms;
  await core.setClock(new Date(ms).toISOString());
}

test('the books hold after every step of any schedule of two processes', { timeout: 120_000 }, async () => {
  await assert(
    asyncProperty(array(action, { minLength: 10, maxLength: 30 }), async (actions) => {
      const accounts: Account[] = [];
      for (const { terms, creditNanos } of PLANS) {
        accounts.push({ right: await core.consumer(terms, creditNanos), used: new Map(), balance: creditNanos });
      }
      const schedule = new Schedule(accounts);
      for (const step of actions) await schedule.step(step);
      await schedule.finish();
    }),
    { numRuns: 8, interruptAfterTimeLimit: 20_000 },
  );
});
