import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import pg from 'pg';
import type { Dice } from '../fuzz/random.ts';
import { Client, inParallel } from '../support/client.ts';
import type { Server } from '../support/server.ts';
import { type Entry, Journal, type Outcome } from './journal.ts';
import { attempt, falseRefusals, mayRetry, resolveAll } from './load.ts';
import { type Fault, type Round, WIDTH } from './round.ts';
import type { Stage } from './stage.ts';

const CALLS_BEFORE = 200;
const RETRIES_MAX = 100;
const REVOKE = 'mutation ($id: ID!) { revokeApiKey(input: { id: $id }) { apiKey { revokedAt } } }';

const revoked = { processes: [1, 4], runs: 1, fullRuns: 100, perRound: 1 } as const;

/**
 * A key revoked under load while one process is stopped, of several or of two servers, or while no process hears a NOTIFY and none knows. No call may be billed
 * after; an answer that was billed before may leave the stopped process when it goes on, where it was stopped between its last look and the system call that
 * sends, and is told.
 */
export const REVOCATIONS: readonly Fault[] = [
  { ...revoked, name: 'key revoked, a process stopped', round: (stage, _, dice) => revocation(stage, dice, 'stopped') },
  { ...revoked, name: 'key revoked, every listener deaf', round: (stage, _, dice) => revocation(stage, dice, 'deaf') },
];

async function revocation(stage: Stage, dice: Dice, how: 'stopped' | 'deaf'): Promise<Round> {
  const payer = await stage.payer('metered');
  const spare = await stage.anotherKey(payer);
  const journal = new Journal(`revoked-${dice.below(2 ** 31)}`);
  const wrong: string[] = [];
  const late: Entry[] = [];
  const second: Server | null = stage.processes > 1 ? null : await stage.another();
  const urls = second ? [stage.url, second.url] : [stage.url];
  const victim = second?.pid ?? dice.pick(stage.servers());
  let isRevoked = false;

  async function call(client: Client): Promise<Outcome> {
    const entry = journal.issue();
    const outcome = await attempt(client, payer.secret, entry, journal);
    if ('answered' in outcome && isRevoked) {
      late.push(entry);
      if (how === 'deaf' || (second !== null && client === clients[0]))
        wrong.push(`${entry.key} was answered after the revocation by a process that was not stopped`);
    }
    return outcome;
  }

  const clients = urls.map((url) => new Client(url, WIDTH));
  const askers = Array.from({ length: stage.processes * 2 }, () => new Client(stage.url, 1));
  try {
    const load = clients.flatMap((client) =>
      Array.from({ length: WIDTH }, async () => {
        while (!isRevoked) await call(client);
      }),
    );
    await Promise.all(askers.map((asker) => asker.ask('{ __typename }', {}, null)));
    while (journal.acknowledged < CALLS_BEFORE) await sleep(10);
    const end = how === 'deaf' ? stage.proxy.deafen() : stop(victim);
    try {
      // Which process a connection leads to is not said: one that answers does not lead to the stopped one.
      const asker = await Promise.any(askers.map((one) => one.ask('{ __typename }', {}, null).then(() => one)));
      await asker.ask(REVOKE, { id: payer.keyId }, payer.token);
      // What was let out before is read before it counts.
      await turn();
      await turn();
      isRevoked = true;
    } finally {
      if (end() === 0) wrong.push('nobody was deaf: no connection that listens was sent anything');
    }
    await Promise.all(load);
    // On every connection, whichever process it leads to.
    await inParallel(clients.length * WIDTH, clients.length * WIDTH, async (i) => {
      const client = clients[i % clients.length] as Client;
      let outcome = await call(client);
      for (let again = 0; again < RETRIES_MAX && mayRetry(outcome); again++) {
        await sleep(50);
        outcome = await call(client);
      }
      if (!('refused' in outcome) || outcome.refused !== 'UNAUTHENTICATED') wrong.push(`a revoked key got ${JSON.stringify(outcome)}`);
    });
    // What the stopped process kept back may be billed: another key of the tenant gets it.
    const open = journal.unresolved().filter(({ unknown }) => unknown > 0);
    wrong.push(...(await resolveAll({ url: stage.url, secret: spare.secret, journal, dice, open })));
    wrong.push(...falseRefusals(journal).filter((text) => !text.startsWith('UNAUTHENTICATED')));
  } finally {
    isRevoked = true;
    for (const client of [...clients, ...askers]) client[Symbol.dispose]();
    await second?.kill('SIGTERM');
  }
  const after = await billedAfter(stage.databaseUrl, late);
  wrong.push(...after.map((id) => `${id} was billed after its key was revoked`));
  // One look is followed by one sending: more than one answer cannot be in between.
  if (how === 'stopped' && late.length > 1) wrong.push(`${late.length} answers left the stopped process after the revocation`);
  const notes =
    late.length === 0 || how === 'deaf' ? [] : ['an answer that was billed before the revocation left the stopped process after it'];
  return { payer, journal, wrong, notes };
}

/** Returns what lets it go on. */
function stop(pid: number): () => null {
  process.kill(pid, 'SIGSTOP');
  return () => {
    process.kill(pid, 'SIGCONT');
    return null;
  };
}

/** Of calls that were answered late, the records that are not older than the revocation of their key. */
async function billedAfter(url: string, late: readonly Entry[]): Promise<string[]> {
  if (late.length === 0) return [];
  const db = new pg.Client({ connectionString: url });
  await db.connect();
  try {
    const ids = late.map(({ answer }) => answer?.id);
    const { rows } = await db.query<{ id: string }>(
      `select given.id from unnest($1::uuid[]) given (id) left join usage_record r on r.id = given.id left join api_key k on k.id = r.api_key_id
        where r.created_at < k.revoked_at is not true`,
      [ids],
    );
    return rows.map(({ id }) => id);
  } finally {
    await db.end();
  }
}
