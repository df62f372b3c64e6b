/**
 * P8, of usage records: what one tenant's usage page, its export's first byte and its audit take where the books hold many records, beside the same where
 * they hold few, of which it has as many. Two marketplaces, filled before, asked in turns.
 */
import { setTimeout } from 'node:timers/promises';
import type { Database } from '../../src/base/database.ts';
import { openPostgres } from '../../src/base/database-postgres.ts';
import { createLog } from '../../src/base/log.ts';
import { runAudit } from '../../src/prediction/audit.ts';
import { Client } from '../support/client.ts';
import { signIn, signUp } from '../support/people.ts';
import { type Figure, type NotRun, ratios } from './figure.ts';
import { openMarket } from './market.ts';
import { type Effort, median } from './sides.ts';
import { DAYS, fillBooks, OWN_RECORDS } from './usage-books.ts';

const FEW = 100_000;
const TENANT = 'measured';
const WAYS = [
  { id: 'P8 usage', name: 'usage page of 30 days by day and model', times: 20, ask: usagePage },
  { id: 'P8 export', name: 'first byte of an export of 30 days', times: 20, ask: firstByte },
  { id: 'P8 audit', name: 'audit of one tenant', times: 10, ask: audit },
] as const;

type Place = { url: string; db: Database; tenantId: string; token: string; client: Client; from: string; to: string };

export async function growth(effort: Effort, records: number): Promise<(Figure | NotRun)[]> {
  const what = `${records} : ${FEW} usage records, of which the tenant has ${OWN_RECORDS}`;
  if (!process.env.DATABASE_URL) return [{ id: 'P8', what, why: 'set DATABASE_URL: the books are filled by its login' }];
  await using stack = new AsyncDisposableStack();
  const places = [await open(stack, records), await open(stack, FEW)];
  const rounds = WAYS.map(() => places.map((): number[] => []));
  for (let round = 0; round < effort.rounds + 1; round++) {
    for (const [index, way] of WAYS.entries()) {
      for (const side of round % 2 === 1 ? [1, 0] : [0, 1]) {
        const place = places[side];
        // The first round warms up.
        if (place) rounds[index]?.[side]?.push(await p50(way, place));
      }
    }
  }
  return WAYS.map(({ id, name }, index) => {
    const [many = [], few = []] = rounds[index]?.map((side) => side.slice(1)) ?? [];
    const said = (side: readonly number[]) => `p50 ${median(side).toFixed(1)} ms`;
    return {
      ...{ id, what: `${name}, ${what}`, unit: '×', ...ratios(many, few), ours: said(many), theirs: said(few) },
      ...{ mark: { most: 1.2 }, goal: { most: 1.2 }, notes: [] },
    };
  });
}

async function open(stack: AsyncDisposableStack, records: number): Promise<Place> {
  const { url, databaseUrl } = stack.use(await openMarket());
  const client = stack.use(new Client(url));
  await signUp(client, TENANT);
  const tenantId = await fillBooks(databaseUrl ?? '', TENANT, records, (line) => console.error(line));
  const db = stack.use(await openPostgres({ url: databaseUrl ?? '', serverUrl: null, poolSize: 1 }, createLog('warn')));
  const broken = (await runAudit(db, tenantId)).filter(({ rows }) => rows.length > 0);
  if (broken.length > 0) throw new Error(`the filled books are wrong: ${JSON.stringify(broken).slice(0, 1000)}`);
  const token = await signIn(client, { email: `${TENANT}@example.com`, password: 'correct horse battery' });
  const now = Date.now();
  const instant = (ms: number) => new Date(ms).toISOString();
  return { url, db, tenantId, token, client, from: instant(now - DAYS * 86_400_000), to: instant(now) };
}

async function p50({ times, ask }: (typeof WAYS)[number], place: Place): Promise<number> {
  const taken: number[] = [];
  for (let time = 0; time < times; time++) {
    const startedMs = performance.now();
    taken.push((await ask(place)) - startedMs);
  }
  return median(taken);
}

const PAGE = `query ($from: DateTime!, $to: DateTime!) {
  days: usage(from: $from, to: $to, groupBy: DAY) { rows { key predictions units amount { nanos } } total { predictions } }
  models: usage(from: $from, to: $to, groupBy: MODEL) { rows { key predictions units amount { nanos } } total { predictions } }
}`;

/** When it was answered. */
async function usagePage({ client, token, from, to }: Place): Promise<number> {
  type Report = { rows: unknown[]; total: { predictions: string } };
  const { days, models } = await client.ask<{ days: Report; models: Report }>(PAGE, { from, to }, token);
  const answeredMs = performance.now();
  const totals = [days, models].map(({ total }) => Number(total.predictions));
  if (totals.some((total) => total !== OWN_RECORDS)) throw new Error(`the usage page counts ${totals}`);
  return answeredMs;
}

async function firstByte({ url, token, from, to }: Place): Promise<number> {
  const ending = new AbortController();
  const response = await fetch(`${url}/usage/records?${new URLSearchParams({ from, to })}`, {
    headers: { authorization: `Bearer ${token}` },
    signal: ending.signal,
  });
  const first = await response.body?.getReader().read();
  const readMs = performance.now();
  if (!response.ok || !first?.value?.length) throw new Error(`the export answered ${response.status}`);
  ending.abort();
  // The page that was being read ahead is no load for the next.
  await setTimeout(50);
  return readMs;
}

async function audit({ db, tenantId }: Place): Promise<number> {
  await runAudit(db, tenantId);
  return performance.now();
}
