import { createHash } from 'node:crypto';
import { array, assert, asyncProperty, constantFrom, nat, oneof, record } from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { asTenant } from '../../src/base/database.ts';
import type { MercatoError } from '../../src/base/errors.ts';
import { newId } from '../../src/base/ids.ts';
import { priceOf } from '../../src/billing/billing.ts';
import type { Admission } from '../../src/prediction/leases.ts';
import { asAdmin } from '../support/admin.ts';
import { broken, type Core, codeOf, finished, openCore, type Process, type Right } from '../support/core.ts';

let core: Core;
let server: Process;
beforeAll(async () => {
  core = await openCore();
  server = await core.process();
});
afterAll(() => core[Symbol.asyncDispose]());

const PRICE = 7n;
/** Longer than any grant takes on a busy machine: nothing here is held by another process, so no call waits for what does not come. */
const PATIENCE_MS = 30_000;

const of = { who: nat(1), units: nat(3) };
const action = oneof(
  { weight: 3, arbitrary: record({ do: constantFrom('call' as const), ...of }) },
  { weight: 2, arbitrary: record({ do: constantFrom('call that fails' as const), ...of }) },
  record({ do: constantFrom('admit' as const), ...of }),
  record({ do: constantFrom('settle' as const, 'fail' as const), of: nat(9) }),
);
type Action = typeof action extends { generate(...args: never[]): { value: infer T } } ? T : never;

type Open = { admission: Admission; right: Right; isCapped: boolean };

/** Of one consumer whose plan has free units: calls under a key with a hard limit of spend, and calls without. */
class Schedule {
  private readonly open: Open[] = [];
  private units = 0n;
  private spent = 0n;
  private readonly rights: readonly [Right, Right];
  private readonly amount: bigint;

  constructor(rights: readonly [Right, Right], amount: bigint) {
    this.rights = rights;
    this.amount = amount;
  }

  async take(action: Action): Promise<void> {
    if ('who' in action) {
      const call = await this.admit(action.who, action.units + 1);
      if (call === null) return;
      if (action.do === 'admit') this.open.push(call);
      else await this.finish(call, action.do === 'call');
    } else {
      const [call] = this.open.splice(action.of % Math.max(1, this.open.length), 1);
      if (call) await this.finish(call, action.do === 'settle');
    }
  }

  private async finish(call: Open, isAnswered: boolean): Promise<void> {
    if (isAnswered) await this.settle(call);
    else call.admission.giveBack();
    await this.check();
  }

  private async admit(who: number, units: number): Promise<Open | null> {
    const right = this.rights[who === 0 ? 0 : 1];
    try {
      return { admission: await server.leases.admit(right, units, PATIENCE_MS), right, isCapped: who === 0 };
    } catch (error) {
      expect((error as MercatoError).code).toBe('QUOTA_EXCEEDED');
      return null;
    }
  }

  /** Refused only where the limit lacks what the call costs beyond what its own lease holds. */
  private async settle({ admission, right, isCapped }: Open): Promise<void> {
    const terms = right.terms;
    const cost = priceOf(terms, this.units + BigInt(admission.units)) - priceOf(terms, this.units);
    const lease = await asAdmin(core.db, (tx) => tx.lease.findUnique({ where: { id: admission.leaseId } }));
    const { inFlight } = await this.limit();
    const code = await codeOf(() => server.settlement.settle(finished(right, admission, { apiKeyId: right.apiKeyId })));
    if (code === 'OK') {
      this.units += BigInt(admission.units);
      if (isCapped) this.spent += cost;
      return;
    }
    expect([code, isCapped]).toEqual(['OVERLOADED', true]);
    const heldByOthers = inFlight - BigInt(String(lease?.nanos ?? 0));
    expect(this.spent + heldByOthers + cost).toBeGreaterThan(this.amount);
  }

  private async limit(): Promise<{ used: bigint; inFlight: bigint }> {
    const [limit] = await asTenant(core.db, this.rights[0].consumerTenantId, (tx) =>
      core.usage.limits(tx, this.rights[0].consumerTenantId),
    );
    return limit ?? { used: -1n, inFlight: -1n };
  }

  private async check(): Promise<void> {
    const { used, inFlight } = await this.limit();
    expect(used).toBe(this.spent);
    expect(used + inFlight).toBeLessThanOrEqual(this.amount);
  }

  async end(): Promise<void> {
    for (const { admission } of this.open.splice(0)) admission.giveBack();
    await this.check();
    expect(await broken(core.db)).toEqual([]);
  }
}

async function consumer(freeUnits: bigint, amount: bigint): Promise<Schedule> {
  const right = await core.consumer({ unitPriceNanos: PRICE, freeUnits }, 1_000n);
  const id = newId();
  const tenantId = right.consumerTenantId;
  const hash = createHash('sha256').update(id).digest();
  const key = { id, tenantId, name: 'k', hash, prefix: 'mk_', scopes: ['model:predict'], createdByUserId: newId() };
  await asAdmin(core.db, (tx) => tx.apiKey.create({ data: key }));
  await core.usage.createLimit(tenantId, {
    ...{ name: 'cap', subject: 'API_KEY', subjectId: id, measure: 'SPEND', window: 'DAY', burstUnits: null, hard: true },
    ...{ amount, alertPercents: null },
  });
  return new Schedule([{ ...right, apiKeyId: id }, right], amount);
}

test('under any calls beside free units, a hard limit of spend is kept and refuses after a run only what it has no room for', async () => {
  const schedules = asyncProperty(nat(4), nat(3), array(action, { minLength: 4, maxLength: 12 }), async (free, paid, actions) => {
    const schedule = await consumer(BigInt(free), BigInt(paid) * PRICE);
    // What it counted on lies unused with its lease, while others may have it.
    await schedule.take({ do: 'call that fails', who: 0, units: free });
    for (const one of actions) await schedule.take(one);
    await schedule.end();
  });
  await assert(schedules, { numRuns: 40 });
}, 60_000);
