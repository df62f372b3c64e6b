import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { joinedRows, manyRows } from './batching.ts';
import { type Figure, isMet, tableOf } from './figure.ts';
import { hotTenants } from './hot-tenant.ts';
import { type Market, openMarket } from './market.ts';
import { manyCallers } from './overhead.ts';
import { reading } from './reading.ts';
import { transport } from './transport.ts';

const tiny = { rounds: 1, seconds: 0.2, warmSeconds: 0 };
/** A first answer may take its time where other tests run. */
const brief = { ...tiny, seconds: 1 };
const measurements: [string, (market: Market) => Promise<Figure>][] = [
  ['P1', (market) => manyCallers(market, brief)],
  ['P3', (market) => manyRows(market, brief)],
  ['FRAMES', () => transport(tiny)],
  ['READ', async () => reading(tiny)],
  ['P4', (market) => joinedRows(market, brief, [784, 8, 10])],
];

let market: Market;
beforeAll(async () => {
  market = await openMarket();
});
afterAll(() => market[Symbol.asyncDispose]());
afterEach(() => vi.unstubAllEnvs());

// What the figures are says nothing here: the machine runs other tests at the same time.
test.for(measurements)('the bench takes %s from living servers and puts it into its table', async ([id, measure]) => {
  const figure = await measure(market);
  expect(figure.id).toBe(id);
  expect(figure.rounds).toHaveLength(1);
  expect(Number.isFinite(figure.value)).toBe(true);
  expect(tableOf([figure])).toContain(`| ${id} `);
});

const POSTGRES = process.env.MERCATO_TEST_DATABASE_URL;

test.skipIf(POSTGRES === undefined)(
  'the bench takes P7 from processes of its own, and finds every call of theirs in the books',
  async () => {
    vi.stubEnv('DATABASE_URL', POSTGRES);
    const figure = await hotTenants(tiny, [2]);
    expect(tableOf([figure])).toContain('| P7 ');
    expect(figure).toMatchObject({ rounds: [expect.any(Number)] });
  },
);

test('a bound is met at its own value', () => {
  expect(isMet(0.8, { least: 0.8 })).toBe(true);
  expect(isMet(0.79, { least: 0.8 })).toBe(false);
  expect(isMet(2.5, { most: 2.5 })).toBe(true);
  expect(isMet(2.6, { most: 2.5 })).toBe(false);
});
