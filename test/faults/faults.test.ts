import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import { createTestDatabase } from '../support/database.ts';
import { firstMarket } from '../support/first-market.ts';
import { seedMarket } from '../support/server.ts';
import { FAULTS } from './list.ts';
import { ownerOfConnection } from './processes.ts';
import { exitCodeOf, runFault, tableOf } from './run.ts';
import type { Ground } from './stage.ts';
import { Stages } from './stages.ts';

/** The suite's Postgres, whose one login also serves, and its first market. */
async function openGround(): Promise<Ground> {
  const first = await firstMarket(seedMarket);
  if (first === null) throw new Error('outside the suite there is no first market');
  return {
    cluster: null,
    dataDir: first.dataDir,
    logLevel: 'fatal',
    quotaUnits: 200,
    async createDatabase() {
      const { url, drop } = await createTestDatabase(first.template);
      if (url === null) throw new Error('the embedded database has no way that a proxy could stand in');
      return { url, serverUrl: url, drop };
    },
  };
}
/** For what is never run. */
const NOWHERE: Ground = {
  cluster: null,
  dataDir: '',
  logLevel: 'fatal',
  quotaUnits: 1,
  createDatabase: () => Promise.reject(new Error('it was run')),
};
let stages: Stages | null = null;
afterAll(() => stages?.close());

const QUICK = [
  'kill -9 after the commit',
  'all connections cut',
  'answer of COMMIT lost',
  'duplicates',
  "spend a month of a key's limit, and random kills",
  'money moved, kills and cuts',
  'key revoked, a process stopped',
];

test.skipIf(process.env.MERCATO_TEST_DATABASE_URL === undefined).each(QUICK)(
  '%s: every call is billed exactly once, and the books hold',
  { timeout: 120_000 },
  async (name) => {
    const fault = FAULTS.find((one) => one.name === name);
    if (!fault) throw new Error(`there is no fault ${name}`);
    stages ??= new Stages(await openGround(), 1);
    const result = await runFault(fault, { stages, processes: fault.processes[0] ?? 1, seed: 1, runs: 1 });
    expect(result).toMatchObject({ wrong: [], lost: 0, doubled: 0, stuck: 0, nanosOff: 0n, audit: 0 });
    expect(result.acknowledged).toBeGreaterThan(100);
  },
);

test('whose connection it is, is known by both of its ends: an ended one from the same port is nobody’s', async () => {
  const server = createServer((socket) => void socket.on('error', () => undefined).resume()).listen(0, '127.0.0.1');
  onTestFinished(() => void server.close());
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const [ended, open] = [connect(port, '127.0.0.1'), connect(port, '127.0.0.1')];
  onTestFinished(() => void open.destroy());
  await Promise.all([ended, open].map((socket) => once(socket, 'connect')));
  const ports = [open, ended].map((socket) => socket.localPort ?? 0);
  ended.resetAndDestroy();
  await once(ended, 'close');
  expect(ports.map((from) => ownerOfConnection(from, port, [process.pid]))).toEqual([process.pid, undefined]);
  expect(ownerOfConnection(ports[0] ?? 0, port + 1, [process.pid])).toBeUndefined();
});

test('a fault that could not be run is no success, unless that is allowed, and hides no other', async () => {
  const fault = {
    name: 'none',
    processes: [1] as const,
    runs: 1,
    fullRuns: 1,
    perRound: 1,
    round: () => Promise.reject(new Error('it was run')),
  };
  const given = { stages: new Stages(NOWHERE, 1), processes: 1 as const, seed: 1, runs: 1 };
  const notRun = await runFault({ ...fault, notRun: () => 'no faketime' }, given);
  const clean = { ...notRun, notRun: null };
  const broken = { ...clean, lost: 1 };
  expect([exitCodeOf([clean], false), exitCodeOf([clean, notRun], false), exitCodeOf([clean, notRun], true)]).toEqual([0, 3, 0]);
  expect([exitCodeOf([broken, notRun], false), exitCodeOf([broken, notRun], true)]).toEqual([1, 1]);
  expect(tableOf([notRun])).toContain('NOT RUN: no faketime');
});
