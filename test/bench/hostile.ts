/** R9: a version that never ends, called all the time by two consumers, beside `mercato/digits`. */
import { loopModel } from '../inference/tiny-models.ts';
import { Client } from '../support/client.ts';
import { digitCall } from './calls.ts';
import type { Figure } from './figure.ts';
import { load, type Measured } from './load.ts';
import { openMarket } from './market.ts';
import type { Effort } from './sides.ts';

const CONNECTIONS = 4;
const PREDICT = 'mutation ($input: PredictInput!) { predict(input: $input) { prediction { id } } }';
const ENDLESS = String(2 ** 52);

export async function hostile(effort: Effort): Promise<Figure> {
  await using market = await openMarket();
  const side = market.side(await digitCall('mercato/digits', 1));
  const digits = (seconds: number) => load({ ...side, connections: CONNECTIONS, seconds });
  const attackers = await market.attackers('endless', loopModel(), 500, 2);
  await digits(effort.warmSeconds);
  const before = await digits(effort.seconds);

  const url = side.url.replace(/\/graphql$/, '');
  const startedMs = performance.now();
  const suspendedMs: number[] = [];
  let stop = false;
  let calls = 0;
  const attack = attackers.secrets.flatMap((secret, index) =>
    Array.from({ length: 2 }, async () => {
      using client = new Client(url, 1);
      while (!stop) {
        const input = { model: attackers.handle, deadlineMs: 30_000, inputs: [{ name: 'x', datatype: 'INT64', data: [ENDLESS] }] };
        const answer = await client.send(PREDICT, { input }, secret);
        calls++;
        if (answer.errors?.[0]?.extensions.code !== 'MODEL_SUSPENDED') continue;
        suspendedMs[index] ??= performance.now() - startedMs;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }),
  );
  const during = await digits(effort.seconds);
  while (suspendedMs.filter(Number.isFinite).length < attackers.secrets.length) await new Promise((resolve) => setTimeout(resolve, 100));
  const after: Measured[] = [];
  for (let round = 0; round < effort.rounds; round++) after.push(await digits(effort.seconds));
  stop = true;
  await Promise.all(attack);

  const rounds = after.map(({ p99Ms }) => p99Ms / before.p99Ms);
  const value = rounds.toSorted((a, b) => a - b)[Math.floor(rounds.length / 2)] ?? Number.NaN;
  const said = ({ p50Ms, p99Ms, perSecond }: Measured) => `p50 ${p50Ms.toFixed(1)}, p99 ${p99Ms.toFixed(1)} ms, ${perSecond.toFixed(0)}/s`;
  return {
    ...{ id: 'R9', what: 'p99 of digits once a hostile version is suspended : before', unit: '×', rounds, value },
    ours: `suspended after ${suspendedMs.map((ms) => `${(ms / 1_000).toFixed(1)} s`).join(' and ')}`,
    theirs: said(before),
    mark: { most: 1.2 },
    goal: { most: 1.2 },
    notes: [
      `R9 before ${said(before)}`,
      `R9 during, with the attack's beginning ${said(during)}`,
      ...after.map((one) => `R9 after ${said(one)}`),
      `R9 ${calls} hostile calls`,
    ],
  };
}
