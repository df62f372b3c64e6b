import { array, assert, bigInt, option, property, record } from 'fast-check';
import { expect, it } from 'vitest';
import { holdOf, priceOf } from '../../src/billing/billing.ts';

const terms = option(record({ unitPriceNanos: bigInt(0n, 10n ** 18n), freeUnits: bigInt(0n, 1_000n) }));
const calls = array(bigInt(1n, 400n), { maxLength: 30 });

it('calls cost what their sum costs, however it is cut', () => {
  assert(
    property(terms, calls, bigInt(0n, 2_000n), (plan, units, before) => {
      let n = before;
      let paid = 0n;
      for (const k of units) {
        const amount = priceOf(plan, n + k) - priceOf(plan, n);
        expect(amount).toBeGreaterThanOrEqual(0n);
        paid += amount;
        n += k;
      }
      expect(paid).toBe(priceOf(plan, n) - priceOf(plan, before));
    }),
  );
});

it('free units are free once, and each unit beyond them costs its price', () => {
  assert(
    property(terms, bigInt(0n, 10_000n), (plan, units) => {
      const beyond = plan === null || units < plan.freeUnits ? 0n : units - plan.freeUnits;
      expect(priceOf(plan, units)).toBe(beyond * (plan?.unitPriceNanos ?? 0n));
    }),
  );
});

it('a hold always covers its settlement, in any order, with any part given back', () => {
  assert(
    property(
      terms,
      array(record({ units: bigInt(1n, 400n), settled: bigInt(0n, 1n) }), { maxLength: 30 }),
      bigInt(0n, 2_000n),
      (plan, leased, used) => {
        const counter = { usedUnits: used, leasedUnits: leased.reduce((sum, { units }) => sum + units, 0n) };
        for (const { units, settled } of leased) {
          const held = holdOf(plan, counter);
          counter.leasedUnits -= units;
          const amount = settled === 1n ? priceOf(plan, counter.usedUnits + units) - priceOf(plan, counter.usedUnits) : 0n;
          if (settled === 1n) counter.usedUnits += units;
          // What is released by the change pays for it: the wallet's balance less its hold never falls.
          expect(held - holdOf(plan, counter)).toBeGreaterThanOrEqual(amount);
        }
        expect(holdOf(plan, counter)).toBe(0n);
      },
    ),
  );
});
