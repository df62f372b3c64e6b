import { Readable } from 'node:stream';
import { asTenant, type Database, type Tx } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import { globalId, type NodeType } from '../base/ids.ts';
import { LIMITS } from '../base/limits.ts';
import { checkSpan } from './report.ts';

/** What one line of an export says, in this order; ids are global ids, instants RFC 3339 UTC. */
const COLUMNS = [
  'id',
  'createdAt',
  'period',
  'model',
  'modelVersionId',
  'subscriptionId',
  'planId',
  'apiKeyId',
  'userId',
  'units',
  'rows',
  'runs',
  'computeMicros',
  'bytesIn',
  'bytesOut',
  'amountNanos',
  'currency',
  'transferId',
] as const;
type Column = (typeof COLUMNS)[number];
type Row = Record<Exclude<Column, 'createdAt'>, string | bigint | number | null> & { id: string; createdAt: Date };

const IDS: Partial<Record<Column, NodeType>> = {
  id: 'Prediction',
  modelVersionId: 'ModelVersion',
  subscriptionId: 'Subscription',
  planId: 'Plan',
  apiKeyId: 'ApiKey',
  userId: 'User',
  transferId: 'Transfer',
};
/** At least: what has the last one's instant is of the same page. The first is small, so that its reader need not wait for long. */
const FIRST_ROWS = 100;
const PAGE_ROWS = 1_000;
const RETRY_AFTER_MS = 1_000;

export type ExportFormat = 'ndjson' | 'csv';

/**
 * A tenant's usage records as a consumer of [from, to), oldest first, one a line; CSV (RFC 4180) begins with the columns' names. A page of records at a
 * time is read and held, each in a transaction of its own: what is settled meanwhile with an instant that was passed already is not in it, which cannot be
 * where `to` is a minute ago. `look` is asked before each page; what it throws ends the export. 64-bit numbers are decimal strings in NDJSON. The stream has a
 * place among those of this process until it closes. Checks the order of the two, their distance, then the places. @throws BAD_USER_INPUT, OVERLOADED
 */
export function exportRecords(
  db: Database,
  places: ExportPlaces,
  query: { tenantId: string; from: Date; to: Date; format: ExportFormat; look(): Promise<unknown> },
): Readable {
  checkSpan(query);
  const leave = places.take(query.tenantId);
  return Readable.from(lines(db, query)).once('close', leave);
}

/** Each export holds a page until its client has read it, which may take as long as it likes. */
export class ExportPlaces {
  readonly #taken = new Map<string, number>();
  #all = 0;

  /** Returns what gives the place back. @throws OVERLOADED */
  take(tenantId: string): () => void {
    const taken = this.#taken.get(tenantId) ?? 0;
    refuseWhereFull(taken, LIMITS.exportsPerTenant, 'The tenant streams as many exports from this server as it may at once.');
    refuseWhereFull(this.#all, LIMITS.exports, 'This server streams as many exports as it may at once.');
    this.#taken.set(tenantId, taken + 1);
    this.#all++;
    return () => {
      const left = (this.#taken.get(tenantId) ?? 0) - 1;
      if (left > 0) this.#taken.set(tenantId, left);
      else this.#taken.delete(tenantId);
      this.#all--;
    };
  }
}

function refuseWhereFull(taken: number, limit: number, message: string): void {
  if (taken >= limit) throw new MercatoError('OVERLOADED', message, { limit: String(limit), retryAfterMs: RETRY_AFTER_MS });
}

async function* lines(db: Database, { tenantId, from, to, format, look }: Parameters<typeof exportRecords>[2]): AsyncGenerator<string> {
  if (format === 'csv') yield `${COLUMNS.join(',')}\r\n`;
  let next = { from, size: FIRST_ROWS };
  for (;;) {
    const { from: since, size } = next;
    await look();
    const rows = await asTenant(db, tenantId, (tx) => page(tx, { tenantId, from: since, to, size }));
    if (rows.length > 0) yield rows.map(format === 'csv' ? csvLine : jsonLine).join('');
    const last = rows.at(-1);
    if (last === undefined || rows.length < size) return;
    // Instants are whole milliseconds in both.
    next = { from: new Date(last.createdAt.getTime() + 1), size: PAGE_ROWS };
  }
}

/**
 * By the instant of the last row first: in that order the index has rows, while one by instant and id would sort all that are left for each page. With the
 * policy beside the tenant's own condition the planner takes them for so few that it would sort them anyway, had it the choice.
 */
async function page(tx: Tx, { tenantId, from, to, size }: { tenantId: string; from: Date; to: Date; size: number }): Promise<Row[]> {
  await tx.$executeRaw`select set_config('enable_sort', 'off', true)`;
  return tx.$queryRaw<Row[]>`
    with last as (
      select max(created_at) created_at
        from (select created_at from usage_record
               where consumer_tenant_id = ${tenantId}::uuid and created_at >= ${from} and created_at < ${to}
               order by created_at limit ${size}) first)
    select r.id, r.created_at "createdAt", r.period, coalesce(l.handle, '') model, r.model_version_id "modelVersionId", r.subscription_id "subscriptionId",
           r.plan_version_id "planId", r.api_key_id "apiKeyId", r.user_id "userId", r.units, r.rows, r.runs, r.compute_micros "computeMicros",
           r.bytes_in "bytesIn", r.bytes_out "bytesOut", r.amount_nanos "amountNanos", r.currency, r.transfer_id "transferId"
      from (select * from usage_record
             where consumer_tenant_id = ${tenantId}::uuid and created_at >= ${from} and created_at <= (select last.created_at from last)) r
      left join listing l on l.id = r.listing_id
     order by r.created_at, r.id`;
}

function shown(row: Row, column: Column): string | number | null {
  if (column === 'createdAt') return row.createdAt.toISOString();
  const value = row[column];
  const type = IDS[column];
  if (type !== undefined) return typeof value === 'string' ? globalId(type, value) : null;
  return typeof value === 'bigint' ? value.toString() : value;
}

function jsonLine(row: Row): string {
  return `${JSON.stringify(Object.fromEntries(COLUMNS.map((column) => [column, shown(row, column)])))}\n`;
}

/** No value has a comma, a quote or a line break: ids, numbers, instants, handles and currencies. */
function csvLine(row: Row): string {
  return `${COLUMNS.map((column) => shown(row, column) ?? '').join(',')}\r\n`;
}

/** The query of GET /usage/records, as text. @throws BAD_USER_INPUT */
export function parseExport(query: { from?: unknown; to?: unknown; format?: unknown }): { from: Date; to: Date; format: ExportFormat } {
  const format = query.format ?? 'ndjson';
  if (format !== 'ndjson' && format !== 'csv')
    throw badInput('format', 'format must be ndjson or csv.', { given: String(format).slice(0, 40) });
  return { from: instantOf('from', query.from), to: instantOf('to', query.to), format };
}

const INSTANT = /^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d))?$/;

function instantOf(field: string, text: unknown): Date {
  const instant = typeof text === 'string' && INSTANT.test(text) ? new Date(text) : null;
  if (instant === null || Number.isNaN(instant.getTime())) {
    const expected = 'as 2026-11-01 or 2026-11-01T00:00:00Z';
    throw badInput(field, `${field} must be a day or an RFC 3339 instant.`, { given: String(text ?? 'nothing').slice(0, 40), expected });
  }
  return instant;
}
