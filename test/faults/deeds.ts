import { setTimeout as sleep } from 'node:timers/promises';
import type { Dice } from '../fuzz/random.ts';
import type { Client } from '../support/client.ts';
import { RETRYABLE } from './load.ts';

const SENT_MAX = 5;
const PAUSE_MS = 50;
/** While faults go on, an answer to some retry comes within this. */
const GIVE_UP_MS = 120_000;

/** A mutation that makes one object under a key or an id of its caller's, however often it is sent. */
export type Mutation = {
  name: string;
  /** Answers `{ done: { made: { id } } }`, and where there is one `secret`. */
  query: string;
  input: object;
  token: string;
};

/** `made`: the object's global id; null: refused with CONFLICT, each time. `wrong`: what answers said that must not be. */
export type Done = { made: string | null; wrong: string[] };

type Answer = { done: { made: { id: string }; secret?: string | null } };
type Told = { made: string; secret: boolean } | { refused: string } | { silent: true };

/** Sends a deed one to five times at once, each until it is answered or refused for good: all are told the same, and a secret is shown once at most. */
export async function doOften(client: Client, deed: Mutation, dice: Dice): Promise<Done> {
  const told = await Promise.all(Array.from({ length: 1 + dice.below(SENT_MAX) }, () => untilTold(client, deed)));
  const made = told.flatMap((one) => ('made' in one ? [one.made] : []));
  const refused = told.flatMap((one) => ('refused' in one ? [one.refused] : []));
  const wrong = refused.filter((text) => !text.startsWith('CONFLICT')).map((text) => `${deed.name} was refused: ${text}`);
  if (made.length + refused.length < told.length) wrong.push(`${deed.name} was never answered`);
  if (made.length > 0 && refused.length > 0) wrong.push(`${deed.name} was done, and refused: ${refused[0]}`);
  if (new Set(made).size > 1) wrong.push(`${deed.name} was done ${new Set(made).size} times`);
  if (told.filter((one) => 'made' in one && one.secret).length > 1) wrong.push(`the secret of ${deed.name} was shown more than once`);
  return { made: made[0] ?? null, wrong };
}

async function untilTold(client: Client, { query, input, token }: Mutation): Promise<Told> {
  const giveUpMs = performance.now() + GIVE_UP_MS;
  while (performance.now() < giveUpMs) {
    const answer = await client.send(query, { input }, token).catch(() => null);
    const error = answer?.errors?.[0];
    if (answer?.data && error === undefined) {
      const { done } = answer.data as Answer;
      return { made: done.made.id, secret: typeof done.secret === 'string' };
    }
    if (error && error.extensions.code !== 'OUTCOME_UNKNOWN' && !RETRYABLE.has(error.extensions.code))
      return { refused: `${error.extensions.code} ${error.extensions.rule ?? ''}`.trim() };
    await sleep(PAUSE_MS);
  }
  return { silent: true };
}
