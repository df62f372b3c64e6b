import { AsyncLocalStorage } from 'node:async_hooks';
import cluster from 'node:cluster';
import { type App, createApp } from './app.ts';
import { DataDirectoryLocked } from './base/database-embedded.ts';
import { createLog } from './base/log.ts';
import { banner } from './commands/banner.ts';
import { type Config, ConfigError, readConfig } from './config.ts';
import { connectFleet } from './inference/inference.ts';
import { runProcesses, sayReady } from './processes.ts';

/** Longer than the longest deadline and its settlement; what is still open then is cut off. */
const DRAIN_MS_MAX = 70_000;
/** What ending the parts may take after a drain that used up its time. */
const DISPOSE_MS_MIN = 5_000;
/** Ctrl-C under npm arrives twice, from the terminal and from npm; a person who insists is slower. */
const REPEATED_MS_MAX = 500;
const EXIT_CONFIG = 2;
/** It cannot be reached; or, by SQLSTATE, the login, its password, the database's name or a privilege is wrong. */
const DATABASE_FAULTS = /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|EHOSTUNREACH|28000|28P01|3D000|42501)$/;

/** It is a file, lies in one, or may not be written. */
const DIRECTORY_FAULTS = /^(EEXIST|ENOTDIR|EACCES|EPERM|EROFS|ENOSPC)$/;

/** A fault that a person mends outside the program: said in words, without a stack. */
function refuseToStart(message: string): never {
  process.stderr.write(`Mercato does not start.\n${message}\n`);
  process.exit(EXIT_CONFIG);
}

function configure(): Config {
  try {
    return readConfig(process.env);
  } catch (error) {
    if (error instanceof ConfigError) return refuseToStart(error.message);
    throw error;
  }
}

async function start(): Promise<App> {
  try {
    if (cluster.isPrimary) return await createApp(config, { log });
    // One of them seeds: the first, which the others are started after.
    return await createApp({ ...config, seed: config.seed && cluster.worker?.id === 1 }, { log, fleet: connectFleet(process) });
  } catch (error) {
    const surroundings = faultOfSurroundings(error);
    if (surroundings !== null) return refuseToStart(surroundings);
    log.fatal({ err: error }, 'the server did not start');
    process.exit(1);
  }
}

/** In words, where the fault is in the address, the database or the data directory; null: it is in the program. */
function faultOfSurroundings(error: unknown): string | null {
  if (error instanceof DataDirectoryLocked) return error.message;
  if (!(error instanceof Error) || !('code' in error)) return null;
  const ofAddress = ('syscall' in error && error.syscall === 'listen') || ('hostname' in error && error.hostname === config.host);
  if (ofAddress) {
    const why = error.code === 'EADDRINUSE' ? 'it is in use' : error.code;
    return `Cannot listen on ${config.host}:${config.port}: ${why}. Set MERCATO_PORT or MERCATO_HOST.`;
  }
  if (DIRECTORY_FAULTS.test(String(error.code)) && 'path' in error) {
    return `Cannot use the data directory ${config.dataDir}: ${error.message}. Set MERCATO_DATA.`;
  }
  if (config.databaseUrl !== null && DATABASE_FAULTS.test(String(error.code))) {
    return `Cannot use the database of DATABASE_URL: ${error.message || error.code}.`;
  }
  return null;
}

/** Drains once, however often it is called: calls in flight are answered and billed, then every part ends, then the process. */
async function stop(): Promise<void> {
  if (stopping) return;
  stopping = true;
  const started = performance.now();
  await finish('drain', () => app.drain(), DRAIN_MS_MAX);
  const leftMs = DRAIN_MS_MAX - (performance.now() - started);
  await finish('end', () => app[Symbol.asyncDispose](), Math.max(leftMs, DISPOSE_MS_MIN));
  process.exit();
}

/** Waits for one step of the stop; where it fails or takes too long, the process will exit with 1. */
async function finish(step: string, work: () => PromiseLike<void>, limitMs: number): Promise<void> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`not done after ${Math.round(limitMs)} ms`)), limitMs);
  try {
    await Promise.race([work(), late.promise]);
  } catch (error) {
    log.fatal({ err: error, step }, 'the server did not stop cleanly');
    process.exitCode = 1;
  } finally {
    clearTimeout(timer);
  }
}

/** The first signal drains; a later one exits at once. */
function onSignal(signal: NodeJS.Signals): void {
  const now = performance.now();
  if (now - signalledAt > REPEATED_MS_MAX) process.exit(1);
  signalledAt = Math.min(signalledAt, now);
  if (!stopping) log.info({ signal }, 'draining');
  void stop();
}

const config = configure();
const log = createLog(config.logLevel);
let stopping = false;
let signalledAt = Number.POSITIVE_INFINITY;
if (cluster.isPrimary && config.processes > 1) process.exit(await runProcesses(config, log));
// The parent cannot be written to: it is gone, and a server process ends with it.
cluster.worker?.once('error', () => process.exit(1));
const app = await start();

for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, onSignal);
// What failed may have failed inside a transaction, where ending the parts would count as a part of it.
const outside = AsyncLocalStorage.snapshot();
for (const event of ['unhandledRejection', 'uncaughtException'] as const) {
  process.on(event, (error: unknown) => {
    log.fatal({ err: error }, event);
    process.exitCode = 1;
    void outside(stop);
  });
}
if (cluster.isPrimary) process.stdout.write(await banner(app));
else sayReady(await banner(app));
