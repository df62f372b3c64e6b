import { randomBytes } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { authorize, createAccess } from './access/access.ts';
import { type Clock, systemClock } from './base/clock.ts';
import type { Database } from './base/database.ts';
import { openEmbedded } from './base/database-embedded.ts';
import { openPostgres } from './base/database-postgres.ts';
import { createLog, type Log } from './base/log.ts';
import { openSignals } from './base/signals.ts';
import { createBilling } from './billing/billing.ts';
import { createCatalog, createDirectoryStore, isOwnStore, type ModelStore, sweepFiles } from './catalog/catalog.ts';
import { type Demo, seed } from './commands/seed.ts';
import { addressUrl, type Config } from './config.ts';
import { createGraphQL, credentialsOf, type Services } from './graphql/graphql.ts';
import { createHttp } from './http/server.ts';
import { createFleet, createInference, type FleetPort, type HostFleet } from './inference/inference.ts';
import { createJobs, createPredictions, runAuditOf, sweepReplays } from './prediction/prediction.ts';
import { createTraining, sweepCheckpoints } from './training/training.ts';
import { createUsage, keepUsage } from './usage/usage.ts';

/** A running server. Disposing stops it whatever it does; `drain` first lets it finish. */
export type App = AsyncDisposable & {
  /** Where it listens, `http://host:port`. */
  url: string;
  /** What was seeded; null where seeding is off. */
  demo: Demo | null;
  services: Services;
  log: Log;
  /** Readiness goes first, then the port; calls in flight are answered and billed. */
  drain(): Promise<void>;
};

/** `fleet`: the host's runners, where another process owns them. */
export type Overrides = { log?: Log; clock?: Clock; db?: Database; fleet?: FleetPort };

const UPKEEP_MS = 60 * 60 * 1000;
const EXPIRY_MS = 60 * 1000;
/** Connections of each of a process's two pools; many processes share what a Postgres has, by default 100. */
const POOL_SIZE = { all: 40, max: 10, min: 2 };
const SPARE_RUNNERS = 1;

/** Wires the parts in the order of their dependence; they end in the opposite order. @throws DataDirectoryLocked */
export async function createApp(config: Config, overrides: Overrides = {}): Promise<App> {
  const dataDir = resolve(config.dataDir);
  const log = overrides.log ?? createLog(config.logLevel);
  const clock = overrides.clock ?? systemClock;
  await using stack = new AsyncDisposableStack();
  await mkdir(dataDir, { recursive: true, mode: 0o700 });

  const db = overrides.db ?? stack.use(await openDatabase(config, dataDir, log));
  await keepUsage(db);
  every(stack, UPKEEP_MS, () => keepUsage(db).catch((error: unknown) => log.error({ err: error }, 'the upkeep of usage failed')));

  const store = await createDirectoryStore(resolve(config.modelStoreDir));
  const sweep = () => sweepStore(db, store, log).catch((error: unknown) => log.error({ err: error }, 'the store could not be swept'));
  void sweep();
  every(stack, UPKEEP_MS, sweep);
  const access = stack.use(await createAccess({ db, dataDir, jwtKeys: config.jwtKeys, log, clock }));
  const fleet = overrides.fleet ?? stack.use(await openFleet(config, log));
  const inference = stack.use(createInference(fleet));
  const jobs = stack.use(await createJobs(db, log));
  const billing = createBilling({ db, currency: config.currency, commissionBps: config.commissionBps });
  const usage = createUsage({ db, announcer: access.invalidations, currency: config.currency });
  const closePeriods = () => billing.closeDuePeriods().catch((error: unknown) => log.error({ err: error }, 'periods could not be closed'));
  await closePeriods();
  every(stack, UPKEEP_MS, closePeriods);
  every(stack, EXPIRY_MS, () =>
    billing.expireTransfers().catch((error: unknown) => log.error({ err: error }, 'pending transfers could not be ended')),
  );
  let url = '';
  const uploadsUrl = () => `${config.publicUrl ?? url}/uploads`;
  const { invalidations } = access;
  const catalog = stack.use(
    createCatalog({ db, store, inference, invalidations, jobs, processId: access.processId, currency: config.currency, uploadsUrl, log }),
  );
  const predictions = stack.use(
    await createPredictions({ db, access, catalog, billing, inference, store, replayHours: config.replayHours, log }),
  );
  const training = stack.use(await createTraining({ db, store, catalog, jobs, processId: access.processId, dataDir, log }));
  const signals = await openSignals(db);
  const services: Services = { db, access, catalog, usage, billing, predictions, training, signals };
  const graphql = await createGraphQL(services, log);
  stack.defer(() => graphql.stop());

  await catalog.start();
  await training.start();
  const demo = config.seed ? await seed(dataDir, { db, access, catalog, billing }) : null;
  const adminToken = randomBytes(24).toString('base64url');
  const http = await createHttp({
    ...config,
    graphiql: !config.production,
    adminToken,
    log,
    graphql,
    live: graphql.live,
    isReady: () => invalidations.isFresh(),
    receiveUpload: catalog.receiveUpload,
    async exportUsage(headers, query) {
      const look = async () => authorize(await access.authenticate(credentialsOf(headers)), 'usage:read');
      return usage.exportRecords((await look()).tenantId, query, look);
    },
    audit: (tenantName) => runAuditOf(db, tenantName),
  });
  url = addressUrl(config.host, await http.listen());
  log.debug({ url }, 'listening');
  stack.defer(() => http.drain());
  if (db.kind === 'embedded') {
    // `npm run audit` asks the process that has the database.
    const adminFile = join(dataDir, 'admin.json');
    await writeFile(adminFile, JSON.stringify({ url, token: adminToken }), { mode: 0o600 });
    stack.defer(() => rm(adminFile, { force: true }));
  }

  const parts = stack.move();
  return {
    url,
    demo,
    services,
    log,
    async drain() {
      await http.drain();
      await predictions.idle();
    },
    [Symbol.asyncDispose]: () => parts.disposeAsync(),
  };
}

/** Rids the store of what nothing refers to. */
async function sweepStore(db: Database, store: ModelStore, log: Log): Promise<void> {
  await store.removeAbandoned();
  if (!(await isOwnStore(db, store, log))) return;
  await sweepFiles(db, store);
  await sweepReplays(db, store);
  await sweepCheckpoints(db, store);
}

/** The runners of this host, for one server process or, in its parent, for several. */
export async function openFleet(config: Config, log: Log): Promise<HostFleet> {
  const store = await createDirectoryStore(resolve(config.modelStoreDir));
  const readModel = (file: string) => store.read(file);
  const { maxLoaded, devices, deviceEnvironment, replicasMax } = config;
  const [memoryBytesMax, deviceMemoryBytesMax] = [config.modelMemoryMb * 1024 ** 2, config.deviceMemoryMb * 1024 ** 2];
  return createFleet(
    {
      dataDir: resolve(config.dataDir),
      spares: SPARE_RUNNERS,
      readModel,
      maxLoaded,
      memoryBytesMax,
      deviceMemoryBytesMax,
      keepAliveMs: config.keepAliveS * 1000,
      replicasMax,
      devices,
      deviceEnvironment,
    },
    log,
  );
}

function openDatabase(config: Config, dataDir: string, log: Log): Promise<Database> {
  if (config.databaseUrl === null) return openEmbedded(dataDir, log);
  const poolSize = Math.max(POOL_SIZE.min, Math.min(POOL_SIZE.max, Math.floor(POOL_SIZE.all / config.processes)));
  return openPostgres({ url: config.databaseUrl, serverUrl: config.databaseServerUrl, poolSize }, log);
}

function every(stack: AsyncDisposableStack, intervalMs: number, fn: () => void): void {
  const timer = setInterval(fn, intervalMs);
  timer.unref();
  stack.defer(() => clearInterval(timer));
}
