import { AsyncLocalStorage } from 'node:async_hooks';
import type { Prisma, PrismaClient } from '../generated/prisma/client.ts';

/** A client bound to one open transaction; it cannot open another. */
export type Tx = Omit<Prisma.TransactionClient, '$transaction' | '$connect' | '$disconnect' | '$on' | '$extends'>;

/**
 * The database behind its two doors, `asTenant` and `asSystem`. Nothing else reaches a client.
 * `setRole` is true where all roles share one connection and each transaction must choose its own.
 */
export type Database = AsyncDisposable & {
  readonly kind: 'postgres' | 'embedded';
  readonly tenantClient: PrismaClient;
  readonly systemClient: PrismaClient;
  readonly setRole: boolean;
  /** Of each role; where roles share them, in all. */
  readonly connections: number;
  /**
   * A statement of the system role straight to the driver, whose values are as the driver has them (64-bit integers and NUMERIC as text): through Prisma each
   * costs the server's thread 0.2 ms more. Null where `setRole`. NotStarted where there is no connection to be had.
   */
  readonly systemQuery: ((query: Prisma.Sql) => Promise<unknown[]>) | null;
  /**
   * Hears NOTIFYs of a channel on one dedicated connection, which reconnects by itself; `heard` gets the payload. `restored` is called when it listens again
   * after a loss: what was said in between is lost.
   */
  listen(channel: string, heard: (payload: string) => void, restored?: () => void): Promise<void>;
};

const open = new AsyncLocalStorage<true>();
const OPTIONS = { maxWait: 10_000, timeout: 30_000 };

/** Throws where a transaction is open: a caller that waits for something slow must not hold one. */
export function assertNoTransaction(what: string): void {
  if (open.getStore()) throw new Error(`${what} inside an open transaction`);
}

/**
 * One transaction in which row-level security shows what `tenantId` may see; null: the public catalogue only.
 * A transaction inside another is a programming error and throws.
 */
export function asTenant<T>(db: Database, tenantId: string | null, fn: (tx: Tx) => Promise<T>): Promise<T> {
  return inTenant(db, tenantId, fn, OPTIONS);
}

/** As `asTenant`, for reading alone: all reads see one moment. Embedded they do anyway, since nothing else runs meanwhile. */
export function asReader<T>(db: Database, tenantId: string | null, fn: (tx: Tx) => Promise<T>): Promise<T> {
  return inTenant(db, tenantId, fn, db.kind === 'embedded' ? OPTIONS : { ...OPTIONS, isolationLevel: 'RepeatableRead' });
}

type Options = typeof OPTIONS & { isolationLevel?: Prisma.TransactionIsolationLevel };

function inTenant<T>(db: Database, tenantId: string | null, fn: (tx: Tx) => Promise<T>, options: Options): Promise<T> {
  assertNoTransaction('asTenant');
  const work = async (tx: Tx) => {
    const id = tenantId ?? '';
    if (db.setRole) await tx.$executeRaw`select set_config('role', 'mercato_tenant', true), set_config('mercato.tenant_id', ${id}, true)`;
    else await tx.$executeRaw`select set_config('mercato.tenant_id', ${id}, true)`;
    return fn(tx);
  };
  return open.run(true, () => transaction(db.tenantClient, work, options));
}

/** One transaction of the system role: authentication, leases, settlement, jobs, audit. */
export function asSystem<T>(db: Database, fn: (tx: Tx) => Promise<T>): Promise<T> {
  assertNoTransaction('asSystem');
  const work = async (tx: Tx) => {
    if (db.setRole) await tx.$executeRaw`select set_config('role', 'mercato_system', true)`;
    return fn(tx);
  };
  return open.run(true, () => transaction(db.systemClient, work, OPTIONS));
}

/** UNREACHABLE: undone. UNCONFIRMED: all was done but for the COMMIT, whose answer did not come; it is committed as a whole, or not at all. */
type Loss = 'UNREACHABLE' | 'UNCONFIRMED';
const losses = new WeakMap<Error, Loss>();

async function transaction<T>(client: PrismaClient, work: (tx: Tx) => Promise<T>, options: Options): Promise<T> {
  let isDone = false;
  try {
    return await client.$transaction(async (tx) => {
      const result = await work(tx);
      isDone = true;
      return result;
    }, options);
  } catch (error) {
    if (error instanceof Error && isDone && !wasRefused(error)) losses.set(error, 'UNCONFIRMED');
    else if (error instanceof Error && isOfTheWay(error)) losses.set(error, 'UNREACHABLE');
    throw error;
  }
}

/** Where a transaction failed since the way to the database was lost: what became of it; null for any other error. */
export function lossOf(error: unknown): Loss | null {
  return error instanceof Error ? (losses.get(error) ?? null) : null;
}

/**
 * One statement of the system role that is its own transaction: no BEGIN and COMMIT of its own where a connection has one role. Which type a
 * column has depends on the way there: select text.
 */
export function systemStatement<T>(db: Database, query: Prisma.Sql): Promise<T[]> {
  if (db.systemQuery === null) return asSystem(db, (tx) => tx.$queryRaw<T[]>(query));
  assertNoTransaction('systemStatement');
  return db.systemQuery(query) as Promise<T[]>;
}

/** True for a unique-constraint violation, from Prisma's query builder (P2002) or raw SQL (SQLSTATE 23505). */
export function isUniqueViolation(error: unknown): boolean {
  return sqlState(error) === '23505';
}

/** True for a violated CHECK (SQLSTATE 23514). */
export function isCheckViolation(error: unknown): boolean {
  return sqlState(error) === '23514';
}

/** True where the database refused the statement, and so has undone it; false where its outcome is not known, as after a lost connection. */
export function wasRefused(error: unknown): boolean {
  const state = sqlState(error);
  return state !== undefined && /^(?!08|57P|XX|58)[0-9A-Z]{5}$/.test(state);
}

/** No connection could be had for a statement. */
export class NotStarted extends Error {
  override readonly name = 'NotStarted';
}

/** True where a transaction could not even begin: nothing was done. */
export function neverStarted(error: unknown): boolean {
  if (error instanceof NotStarted) return true;
  return error instanceof Error && 'code' in error && error.code === 'P2028' && error.message.includes('Unable to start a transaction');
}

/** Whether the database is not there, or the connection to it was lost. */
function isOfTheWay(error: Error): boolean {
  if (neverStarted(error) || /^(08|57P)/.test(sqlState(error) ?? '')) return true;
  const code = 'code' in error ? String(error.code) : '';
  return LOST.codes.test(code) || LOST.kinds.test(causeOf(error)?.kind ?? '') || LOST.messages.test(error.message);
}

/** By Prisma's or the system's code; by what Prisma's adapter calls it; of the driver, whose errors have neither. */
const LOST = {
  codes: /^(P1001|P1002|P1008|P1017|P2024|ECONN\w+|EPIPE)$/,
  kinds: /^(ConnectionClosed|DatabaseNotReachable|SocketTimeout)$/,
  messages:
    /^(Connection terminated|Client (has encountered a connection error|was closed)|Query read timeout|timeout exceeded when trying)/,
};

/** True where the database undid a transaction for another's sake (SQLSTATE class 40: deadlock, serialisation): it may be tried again. */
export function wasVictim(error: unknown): boolean {
  return sqlState(error)?.startsWith('40') ?? false;
}

type DriverCause = { originalCode?: string; code?: string; kind?: string; detail?: string };

/** The SQLSTATE of an error of the database, as 23505; undefined for any other error. */
export function sqlState(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if ('code' in error && error.code === 'P2002') return '23505';
  const cause = causeOf(error);
  return cause?.originalCode ?? cause?.code;
}

/** The DETAIL of an error of the database; undefined where it has none. */
export function sqlDetail(error: unknown): string | undefined {
  return error instanceof Error ? causeOf(error)?.detail : undefined;
}

function causeOf(error: Error): DriverCause | undefined {
  const meta = 'meta' in error ? (error.meta as { driverAdapterError?: { cause?: DriverCause } } | undefined) : undefined;
  return meta?.driverAdapterError?.cause ?? (error.cause as DriverCause | undefined) ?? driverError(error);
}

/** What the driver itself threw has its SQLSTATE beside a severity; its other errors have a code of the system, or none. */
function driverError(error: Error): DriverCause | undefined {
  if (!('severity' in error && 'code' in error)) return undefined;
  return { code: String(error.code), ...('detail' in error && typeof error.detail === 'string' ? { detail: error.detail } : {}) };
}
