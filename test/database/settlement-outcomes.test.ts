import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asTenant, NotStarted } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { type Answer, digestOf, keyOf, type Stored } from '../../src/prediction/replays.ts';
import { createSettlement, type Finished } from '../../src/prediction/settlement.ts';
import type { Outcome, SettlementStore } from '../../src/prediction/settlement-store.ts';
import { type Core, finished, log, openCore, type Process, type Right } from '../support/core.ts';

let core: Core;
let server: Process;
let right: Right;
beforeAll(async () => {
  core = await openCore();
  server = await core.process();
  right = await core.consumer({ unitPriceNanos: 10n }, 1_000n);
});
afterAll(() => core[Symbol.asyncDispose]());

const refusal = (code: string) => Object.assign(new Error(code), { severity: 'ERROR', code });
const billed = ({ metered }: Finished): Outcome => ({ id: metered.id, outcome: 'BILLED', amountNanos: 1n });
const keyed = (key: string) => ({
  tenantId: right.consumerTenantId,
  key,
  digest: Buffer.alloc(32),
  answer: Buffer.alloc(1),
  storeKey: null,
});
const STORED: Stored = { digest: Buffer.alloc(32), recordId: newId(), units: 1, amountNanos: 1n, answer: null };

/** What becomes of `count` calls in one group where the books say what `settle` says, and of their units. */
async function settled(count: number, settle: SettlementStore['settle'], more: Partial<SettlementStore> = {}) {
  const ends: string[] = [];
  const none = { billed: async () => new Map(), answered: async () => new Map(), shortOf: async () => null };
  const store: SettlementStore = { settle, ...none, ...more };
  const settlement = createSettlement({ store, inFlight: () => 0, log });
  const calls = Array.from({ length: count }, (_, i) => {
    const end = (how: string) => () => {
      ends[i] = how;
    };
    const admission = {
      key: right,
      leaseId: newId(),
      period: '2026-11',
      units: 1,
      accounts: null,
      counterIds: [],
      giveBack: end('free'),
      settled: end('spent'),
      forfeit: end('free'),
      allowances: () => [],
    };
    return finished(right, admission, { keyed: keyed(String(i)) });
  });
  const outcomes = await Promise.all(
    calls.map((call) =>
      settlement.settle(call).then(
        ({ stored }) => (stored === null ? 'billed' : 'stored'),
        (error: { code?: string }) => error.code ?? String(error),
      ),
    ),
  );
  return { outcomes, ends };
}

/** Books that fail with these, one after the other, and then bill. */
function failing(...errors: Error[]) {
  const asked: number[] = [];
  const settle: SettlementStore['settle'] = async (group) => {
    asked.push(group.length);
    const error = errors.shift();
    if (error) throw error;
    return group.map(billed);
  };
  return { asked, settle };
}

describe('a group of calls', () => {
  it('that never began is refused, its units free', async () => {
    const books = failing(new NotStarted('no connection'));
    expect(await settled(2, books.settle)).toEqual({ outcomes: ['OVERLOADED', 'OVERLOADED'], ends: ['free', 'free'] });
    expect(books.asked).toEqual([2]);
  });

  it("that was undone for another's sake is written again, once", async () => {
    const books = failing(refusal('40P01'));
    expect(await settled(2, books.settle)).toEqual({ outcomes: ['billed', 'billed'], ends: ['spent', 'spent'] });
    expect(books.asked).toEqual([2, 2]);
    const twice = failing(refusal('40P01'), refusal('40001'));
    await settled(2, twice.settle);
    expect(twice.asked).toEqual([2, 2, 1, 1]);
  });

  it('that was refused is written in halves, and only the one that fails is refused', async () => {
    const books = failing(refusal('23514'), refusal('23514'), refusal('23514'));
    expect(await settled(3, books.settle)).toEqual({
      outcomes: ['OVERLOADED', 'billed', 'billed'],
      ends: ['free', 'spent', 'spent'],
    });
    expect(books.asked).toEqual([3, 2, 1, 1, 1]);
  });

  it.each([
    ['MC001', 'OVERLOADED'],
    ['MC002', 'OVERLOADED'],
    ['MC003', 'OVERLOADED'],
    ['23514', 'OVERLOADED'],
    ['22003', 'INTERNAL'],
  ])('that the database refuses by %s is told %s', async (state, code) => {
    expect(await settled(1, failing(refusal(state)).settle)).toEqual({ outcomes: [code], ends: ['free'] });
  });

  it('whose outcome is not known is looked for in the records, and keeps its units', async () => {
    const found: string[] = [];
    const lost = async () => Promise.reject(new Error('the connection was lost'));
    const records = async (group: readonly Finished[]) => {
      const id = group[1]?.metered.id ?? '';
      found.push(id);
      return new Map([[id, 10n]]);
    };
    expect(await settled(2, lost, { billed: records })).toEqual({ outcomes: ['OUTCOME_UNKNOWN', 'billed'], ends: ['spent', 'spent'] });
    expect(found).toHaveLength(1);
    expect(await settled(1, lost, { billed: lost })).toEqual({ outcomes: ['OUTCOME_UNKNOWN'], ends: ['spent'] });
  });

  it('has calls of revoked keys refused, and those of lost keys answered what is stored, their units free', async () => {
    const kinds = ['BILLED', 'REVOKED', 'LOST', 'LOST'] as const;
    const settle: SettlementStore['settle'] = async (group) => group.map((call, i) => ({ ...billed(call), outcome: kinds[i] ?? 'BILLED' }));
    const answered = async () => new Map([[keyOf(keyed('2')), async () => STORED]]);
    expect(await settled(4, settle, { answered })).toEqual({
      outcomes: ['billed', 'UNAUTHENTICATED', 'stored', 'OVERLOADED'],
      ends: ['spent', 'free', 'free', 'free'],
    });
  });
});

it('calls of one subscription in a group have one charge, whoever called', async () => {
  const own = await core.consumer({ unitPriceNanos: 10n }, 1_000n);
  const calls = [null, newId()].map(async (userId) => finished(own, await server.leases.admit(own, 1, 1_000), { userId }));
  await Promise.all((await Promise.all(calls)).map((call) => server.settlement.settle(call)));
  const { consumerTenantId } = own;
  const transfers = await asTenant(core.db, consumerTenantId, (tx) =>
    core.billing.transfers(tx, consumerTenantId, { first: 10, afterId: null }),
  );
  expect(transfers.filter(({ kind }) => kind === 'CHARGE')).toMatchObject([{ amount: { nanos: 20n } }]);
});

it('an answer that has not expired stays', async () => {
  const outputs: Answer['outputs'] = [];
  const id = newId();
  const timing = { queueMs: 0, computeMs: 0, batchRows: 1, device: 'cpu' };
  const place = await server.replays.prepare({ id, modelVersionId: right.modelVersionId, outputs, timing });
  const call = finished(right, await server.leases.admit(right, 1, 1_000), { id, keyed: { ...keyed('kept'), ...place } });
  await server.settlement.settle(call);
  await server.replays.expire();
  expect((await server.replays.lookUp(right.consumerTenantId, 'kept'))?.answer).not.toBeNull();
});

it('a digest is of the model, the tensors whatever their order, and the outputs', async () => {
  const a = { name: 'a', datatype: 'UINT8', shape: [1, 2], data: new Uint8Array([1, 2]) } as const;
  const b = { ...a, name: 'b' };
  const inputs = (...tensors: { name: string; datatype: string; shape: readonly number[]; data: Uint8Array }[]) =>
    tensors as unknown as Parameters<typeof digestOf>[1];
  const digests = [
    digestOf('m', inputs(a, b), null),
    digestOf('n', inputs(a, b), null),
    digestOf('m', inputs({ ...a, name: 'c' }, b), null),
    digestOf('m', inputs({ ...a, datatype: 'INT8' }, b), null),
    digestOf('m', inputs({ ...a, shape: [2, 1] }, b), null),
    digestOf('m', inputs({ ...a, data: new Uint8Array([1, 3]) }, b), null),
    digestOf('m', inputs(a, b), ['y']),
    digestOf('m', inputs(a, b), ['x']),
    digestOf('m', inputs(a, b), []),
    digestOf('ma', inputs({ ...a, name: '' }, b), null),
  ].map((digest) => digest.toString('hex'));
  expect(new Set(digests).size).toBe(digests.length);
  expect(digestOf('m', inputs(b, a), null).toString('hex')).toBe(digests[0]);
});
