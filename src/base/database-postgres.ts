import { PrismaPg } from '@prisma/adapter-pg';
import pg from 'pg';
import { type Prisma, PrismaClient } from '../generated/prisma/client.ts';
import { type Database, NotStarted } from './database.ts';
import { type MigrationAdapterFactory, migrate, withScripts } from './database-migrations.ts';
import type { Log } from './log.ts';

export type PostgresOptions = {
  /** The login that migrates; a member of mercato_owner, or able to create roles. */
  url: string;
  /** The login that serves; a member of mercato_tenant and mercato_system only. Null: the same as `url`. */
  serverUrl: string | null;
  poolSize: number;
};

/** Any number that all servers of one database agree on: they migrate one after the other. */
const MIGRATION_LOCK = 7_231_994_021n;

/** Opens a Postgres database and brings it up to date first. Each pool's connections take their role before their first statement. */
export async function openPostgres(options: PostgresOptions, log: Log): Promise<Database> {
  await migrateUnderLock(options.url, log);
  const url = options.serverUrl ?? options.url;
  const tenant = client(url, 'mercato_tenant', options.poolSize, log);
  const system = client(url, 'mercato_system', options.poolSize, log);
  const listener = new Listener(url, log);
  return {
    kind: 'postgres',
    tenantClient: tenant.prisma,
    systemClient: system.prisma,
    setRole: false,
    connections: options.poolSize,
    systemQuery: system.query,
    listen: (channel, heard, restored) => listener.listen(channel, { heard, restored }),
    async [Symbol.asyncDispose]() {
      await listener.close();
      await Promise.all([tenant.close(), system.close()]);
    },
  };
}

type Client = { prisma: PrismaClient; query(query: Prisma.Sql): Promise<unknown[]>; close(): Promise<void> };

function client(connectionString: string, role: string, max: number, log: Log): Client {
  const pool = new pg.Pool({
    connectionString,
    max,
    options: `-c role=${role} -c statement_timeout=${STATEMENT_MS_MAX} -c idle_in_transaction_session_timeout=${IDLE_MS_MAX}`,
    application_name: `mercato ${role}`,
    keepAlive: true,
    connectionTimeoutMillis: CONNECT_MS_MAX,
    // A host that is gone without a word answers nothing: nobody may wait for it as long as the kernel would.
    query_timeout: STATEMENT_MS_MAX + 5_000,
  });
  pool.on('error', (error) => log.warn({ error: error.message, role }, 'an idle database connection was lost'));
  // Whoever waits for a statement hears of the loss there; nobody listening on a connection in use, it would end the process.
  pool.on('connect', (connection) => connection.on('error', () => undefined));
  const statementName = createStatementNames();
  const prisma = new PrismaClient({ adapter: new PrismaPg(pool, { statementNameGenerator: statementName }) });
  return {
    prisma,
    async query({ text, values }) {
      const connection = await pool.connect().catch((cause: unknown) => {
        throw new NotStarted('no connection to the database', { cause });
      });
      try {
        const { rows } = await connection.query({ name: statementName({ sql: text }), text, values: [...values] });
        connection.release();
        return rows;
      } catch (error) {
        // What the database refused has left the connection as it was; anything else, a time-out too, may have left it in the middle.
        connection.release(!(error instanceof pg.DatabaseError));
        throw error;
      }
    },
    async close() {
      await prisma.$disconnect();
      await pool.end();
    },
  };
}

const CONNECT_MS_MAX = 10_000;
const STATEMENT_MS_MAX = 30_000;
/** A process that stands still inside a transaction holds its locks no longer: others wait for them, a revocation among them. */
const IDLE_MS_MAX = 5_000;

/** More statements than the code has would mean that some text is made up per call; those are not prepared. */
const STATEMENTS_MAX = 1000;

/**
 * Names for prepared statements: parsing and planning again cost a settlement's statements 0.3–0.6 ms each, more than running them
 * (2 cores, November 2026).
 */
function createStatementNames(): (query: { sql: string }) => string {
  const names = new Map<string, string>();
  return ({ sql }) => {
    const known = names.get(sql);
    if (known !== undefined) return known;
    if (names.size >= STATEMENTS_MAX) return '';
    const name = `m${names.size}`;
    names.set(sql, name);
    return name;
  };
}

async function migrateUnderLock(connectionString: string, log: Log): Promise<void> {
  const holder = new pg.Client({ connectionString });
  await holder.connect();
  try {
    await holder.query('select pg_advisory_lock($1)', [MIGRATION_LOCK.toString()]);
    await migrate(
      postgresMigrations(connectionString),
      async (sql) => {
        const { rows } = await holder.query<{ migration_name: string; checksum: string }>(sql);
        return rows;
      },
      log,
    );
  } finally {
    await holder.end();
  }
}

export function postgresMigrations(connectionString: string): MigrationAdapterFactory {
  return withScripts(new PrismaPg({ connectionString, max: 1 }), async (script) => {
    const client = new pg.Client({ connectionString });
    await client.connect();
    try {
      await client.query(script);
    } finally {
      await client.end();
    }
  });
}

type Hearing = { heard: (payload: string) => void; restored: (() => void) | undefined };

/** LISTEN on a connection of its own; after a loss it reconnects, listens again and says so. */
class Listener {
  private client: pg.Client | null = null;
  private readonly channels = new Map<string, Hearing>();
  private retry: NodeJS.Timeout | null = null;
  private closed = false;
  private readonly connectionString: string;
  private readonly log: Log;

  constructor(connectionString: string, log: Log) {
    this.connectionString = connectionString;
    this.log = log;
  }

  async listen(channel: string, hearing: Hearing): Promise<void> {
    this.channels.set(channel, hearing);
    if (this.client === null) await this.connect();
    else await this.client.query(`listen ${pg.escapeIdentifier(channel)}`);
  }

  async close(): Promise<void> {
    this.closed = true;
    if (this.retry) clearTimeout(this.retry);
    await this.client?.end();
  }

  private async connect(): Promise<void> {
    const client = new pg.Client({ connectionString: this.connectionString, keepAlive: true, application_name: 'mercato listener' });
    client.on('notification', ({ channel, payload }) => this.channels.get(channel)?.heard(payload ?? ''));
    client.on('error', (error) => this.log.warn({ error: error.message }, 'the LISTEN connection was lost'));
    client.on('end', () => this.reconnect());
    await client.connect();
    this.client = client;
    for (const channel of this.channels.keys()) await client.query(`listen ${pg.escapeIdentifier(channel)}`);
  }

  private reconnect(): void {
    this.client = null;
    if (this.closed || this.retry) return;
    this.retry = setTimeout(() => {
      this.retry = null;
      this.connect()
        .then(() => {
          for (const { restored } of this.channels.values()) restored?.();
        })
        .catch(() => this.reconnect());
    }, 250);
  }
}
