import { setTimeout as sleep } from 'node:timers/promises';
import type { Dice } from '../fuzz/random.ts';
import { Client, inParallel } from '../support/client.ts';
import { killingAt, Units, useUp } from './caps.ts';
import { ask, setClock } from './clock.ts';
import { Journal } from './journal.ts';
import { attempt, falseRefusals, mayRetry } from './load.ts';
import type { Fault, Round } from './round.ts';
import { type Payer, PRICE_NANOS, type Stage } from './stage.ts';

/** Calls in flight that the limit of them allows. */
const PLACES = 6;
const CROWD = 60;
/** Left of an hour of the database's clock: a round of calls takes less. */
const MINUTES_LEFT_MIN = 10;
const FREE_AGAIN_MS_MAX = 15_000;
const CREATE = 'mutation ($input: CreateUsageLimitInput!) { createUsageLimit(input: $input) { usageLimit { id } } }';

const limits = { processes: [4, '2×2', 1], runs: 1, fullRuns: 200, perRound: 1 } as const;

/** Limits that a tenant sets, which several server processes lease of, while these are killed. */
export const LIMIT_FAULTS: readonly Fault[] = [
  { ...limits, name: "units an hour of a tenant's limit, and random kills", round: unitsOfTenant },
  { ...limits, name: "spend a month of a key's limit, and random kills", round: spendOfKey },
  { ...limits, name: "calls in flight of a tenant's limit, and random kills", round: callsInFlight },
];

/** Two keys share what the tenant may use. */
async function unitsOfTenant(stage: Stage, _runs: number, dice: Dice): Promise<Round> {
  await leaveHoursEnd(stage);
  const { quotaUnits } = stage.ground;
  const payer = await stage.payer('metered');
  const other = await stage.anotherKey(payer);
  await limit(stage, payer, { name: 'all', window: 'HOUR', amount: String(quotaUnits) });
  const demands = [payer, other].map(({ secret }) => ({ secret, calls: Math.ceil(quotaUnits * 0.75), capped: true }));
  const { journal, wrong } = await useUp(stage, dice, { capacity: quotaUnits, demands });
  return { payer, journal, wrong: [...wrong, ...(await notCounted(stage, payer, { used: quotaUnits, told: [80, 100] }))], notes: [] };
}

/** One of two keys may spend so much, and a little that is no call; the other goes on. */
async function spendOfKey(stage: Stage, _runs: number, dice: Dice): Promise<Round> {
  await leaveHoursEnd(stage);
  const { quotaUnits } = stage.ground;
  const payer = await stage.payer('metered');
  const other = await stage.anotherKey(payer);
  const amount = BigInt(quotaUnits) * PRICE_NANOS + PRICE_NANOS / 2n;
  await limit(stage, payer, {
    ...{ name: 'robot', subject: 'API_KEY', subjectId: payer.keyId, measure: 'SPEND', window: 'MONTH', amount: String(amount) },
  });
  const demands = [
    { secret: payer.secret, calls: Math.ceil(quotaUnits * 1.5), capped: true },
    { secret: other.secret, calls: Math.ceil(quotaUnits * 0.25), capped: false },
  ];
  const { journal, wrong } = await useUp(stage, dice, { capacity: quotaUnits, demands });
  const spent = Number(PRICE_NANOS) * quotaUnits;
  return { payer, journal, wrong: [...wrong, ...(await notCounted(stage, payer, { used: spent, told: [80] }))], notes: [] };
}

/**
 * A crowd, and then as many callers as there are places, each of which calls until it is answered. Wrong is more than the limit leased at any moment,
 * RATE_LIMITED while a place must be free, and in the end a place that is not.
 */
async function callsInFlight(stage: Stage, _runs: number, dice: Dice): Promise<Round> {
  const payer = await stage.payer('metered');
  await limit(stage, payer, { name: 'together', measure: 'CONCURRENCY', amount: String(PLACES) });
  const journal = new Journal(`together-${dice.below(2 ** 31)}`);
  const wrong: string[] = [];
  const places = new Units();
  const clients = stage.urls.map((url) => new Client(url, CROWD));

  async function untilAnswered(): Promise<void> {
    const entry = journal.issue();
    for (;;) {
      const sent = places.send();
      const outcome = await attempt(dice.pick(clients), payer.secret, entry, journal);
      if ('refused' in outcome && outcome.refused === 'RATE_LIMITED' && places.mostAt() < PLACES) {
        wrong.push(`RATE_LIMITED with at most ${places.mostAt()} of ${PLACES} places taken`);
      }
      sent('unknown' in outcome ? 'in doubt' : 'free');
      if (!mayRetry(outcome)) return;
      await sleep(10 + dice.below(20));
    }
  }

  let over = false;
  let most = 0;
  const watching = (async () => {
    while (!over) {
      most = Math.max(most, await leasedOf(stage, payer));
      await sleep(10);
    }
  })();
  try {
    for (const width of [CROWD, PLACES]) {
      const from = journal.acknowledged;
      const points = [dice.below(stage.ground.quotaUnits / 2), dice.below(stage.ground.quotaUnits / 2)];
      const work = inParallel(stage.ground.quotaUnits, width, untilAnswered);
      await killingAt(stage, dice, points, () => journal.acknowledged - from, work, places);
      await stage.recovered();
    }
    const giveUpMs = performance.now() + FREE_AGAIN_MS_MAX;
    while ((await leasedOf(stage, payer)) > 0 && performance.now() < giveUpMs) await sleep(100);
    const before = journal.refusals().get('RATE_LIMITED') ?? 0;
    await inParallel(PLACES * 10, PLACES, untilAnswered);
    const refused = (journal.refusals().get('RATE_LIMITED') ?? 0) - before;
    if (refused > 0) wrong.push(`RATE_LIMITED ${refused} times where there was a place for each caller`);
  } finally {
    over = true;
    await watching;
    for (const client of clients) client[Symbol.dispose]();
  }
  if (most > PLACES) wrong.push(`${most} places of ${PLACES} were taken`);
  wrong.push(...falseRefusals(journal));
  return {
    payer,
    journal,
    wrong,
    notes: [`${most} places of ${PLACES} taken at once, ${journal.refusals().get('RATE_LIMITED') ?? 0} refusals`],
  };
}

async function limit(stage: Stage, { token }: Payer, input: object): Promise<void> {
  using client = new Client(stage.url, 1);
  await client.ask(CREATE, { input }, token);
}

type Counted = { used: number; told: readonly number[] };

/** That a limit's counters, or its alerts, do not say exactly this, in words. */
async function notCounted(stage: Stage, { tenantId }: Payer, { used, told }: Counted): Promise<string[]> {
  const counters = await ask<{ used: string }>(stage, 'select used::text used from limit_counter where tenant_id = $1', [tenantId]);
  const alerts = await ask<{ percent: number }>(stage, 'select percent from usage_alert where tenant_id = $1 order by percent', [tenantId]);
  const found = [counters.map((row) => row.used).join(), alerts.map(({ percent }) => percent).join()];
  const wrong = [];
  if (found[0] !== String(used)) wrong.push(`the limit has counted ${found[0]}, and ${used} were used`);
  if (found[1] !== told.join()) wrong.push(`the limit has told of ${found[1]}%, and ${told.join()}% were passed`);
  return wrong;
}

async function leasedOf(stage: Stage, { tenantId }: Payer): Promise<number> {
  const [row] = await ask<{ leased: string }>(
    stage,
    'select coalesce(sum(leased), 0)::text leased from limit_counter where tenant_id = $1',
    [tenantId],
  );
  return Number(row?.leased);
}

/** Where an hour of the database's clock is nearly over, the next has begun: no window turns while calls are counted. */
async function leaveHoursEnd(stage: Stage): Promise<void> {
  const [row] = await ask<{ near: boolean }>(
    stage,
    `select extract(minute from mercato_now() at time zone 'UTC') >= ${60 - MINUTES_LEFT_MIN} near`,
  );
  if (!row?.near) return;
  await stage.end('SIGTERM');
  await setClock(stage, `(mercato_now() + interval '${MINUTES_LEFT_MIN} minutes')`);
  await stage.start();
}
