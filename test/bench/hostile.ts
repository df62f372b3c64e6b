/**
 * R9: a version that never ends, called all the time by two consumers, beside `mercato/digits`. Once it is suspended, they call it as often as before in every other
 * round: what it costs the neighbour shows beside the round before, not in the hour of the machine.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { loopModel } from '../inference/tiny-models.ts';
import { Client } from '../support/client.ts';
import { digitCall } from './calls.ts';
import type { Figure } from './figure.ts';
import { load, type Measured, send } from './load.ts';
import { openMarket } from './market.ts';
import type { Effort } from './sides.ts';

const CONNECTIONS = 4;
const ATTACK_PAUSE_MS = 10;
/** The start of the attackers' own processes is no part of the attack. */
const HEAD_START_MS = 2_000;
const PREDICT = 'mutation ($input: PredictInput!) { predict(input: $input) { prediction { id } } }';
const ENDLESS = String(2 ** 52);

export async function hostile(effort: Effort): Promise<Figure> {
  await using market = await openMarket();
  const side = market.side(await digitCall('mercato/digits', 1));
  const digits = (seconds: number) => load({ ...side, connections: CONNECTIONS, seconds });
  const attackers = await market.attackers('endless', loopModel(), 500, 2);
  await digits(effort.warmSeconds);
  const before = await digits(effort.seconds);

  const startedMs = performance.now();
  const input = { model: attackers.handle, deadlineMs: 30_000, inputs: [{ name: 'x', datatype: 'INT64', data: [ENDLESS] }] };
  const suspended = Promise.all(
    attackers.secrets.map(async (secret) => {
      using client = new Client(side.url.replace(/\/graphql$/, ''), 1);
      for (;;) {
        const answer = await client.send(PREDICT, { input }, secret);
        if (answer.errors?.[0]?.extensions.code === 'MODEL_SUSPENDED') return performance.now() - startedMs;
      }
    }),
  );
  const during = await digits(effort.seconds);
  const suspendedMs = await suspended;

  const attack = attackers.secrets.map((secret) => ({
    ...{ url: side.url, headers: { authorization: `Bearer ${secret}` }, body: JSON.stringify({ query: PREDICT, variables: { input } }) },
    ...{ connections: 2, seconds: effort.seconds + (1.5 * HEAD_START_MS) / 1_000, pauseMs: ATTACK_PAUSE_MS },
  }));
  const pairs: { quiet: Measured; attacked: Measured }[] = [];
  let calls = 0;
  for (let round = 0; round < effort.rounds; round++) {
    const quiet = await digits(effort.seconds);
    const later = sleep(HEAD_START_MS).then(() => digits(effort.seconds));
    const [attacked, ...attacks] = await Promise.all([later, ...attack.map(send)]);
    if (attacked === undefined) throw new Error('a round is missing');
    pairs.push({ quiet, attacked });
    calls += attacks.reduce((sum, { requests }) => sum + requests, 0);
  }

  const rounds = pairs.map(({ quiet, attacked }) => attacked.p99Ms / quiet.p99Ms);
  const value = rounds.toSorted((a, b) => a - b)[Math.floor(rounds.length / 2)] ?? Number.NaN;
  const said = ({ p50Ms, p99Ms, perSecond }: Measured) => `p50 ${p50Ms.toFixed(1)}, p99 ${p99Ms.toFixed(1)} ms, ${perSecond.toFixed(0)}/s`;
  return {
    ...{ id: 'R9', what: 'p99 of digits beside calls of a suspended version : without them', unit: '×', rounds, value },
    ours: `suspended after ${suspendedMs.map((ms) => `${(ms / 1_000).toFixed(1)} s`).join(' and ')}`,
    theirs: said(before),
    mark: { most: 1.2 },
    goal: { most: 1.2 },
    notes: [
      `R9 before ${said(before)}`,
      `R9 during, with the attack's beginning ${said(during)}`,
      ...pairs.flatMap(({ quiet, attacked }) => [`R9 quiet ${said(quiet)}`, `R9 attacked ${said(attacked)}`]),
      `R9 ${calls} calls of the suspended version`,
    ],
  };
}
