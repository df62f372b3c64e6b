import type { Tx } from '../../src/base/database.ts';
import { globalId, isId, NODE_TYPES } from '../../src/base/ids.ts';

/** Rows as JSON, by table. */
export type Rows = Map<string, Record<string, unknown>[]>;

/** Tables that name no tenant, and how their rows belong to some. */
const THROUGH: Record<string, string> = {
  tenant: 'select to_jsonb(t) "row" from tenant t where t.id = any ($1::uuid[]) order by 1',
  app_user:
    'select to_jsonb(t) "row" from app_user t where exists (select from member m where m.user_id = t.id and m.tenant_id = any ($1::uuid[])) order by 1',
  refresh_token:
    'select to_jsonb(t) "row" from refresh_token t join session s on s.id = t.session_id where s.tenant_id = any ($1::uuid[]) order by 1',
};

/** Every row of these tenants, as a side or the owner, whatever the table; the transaction must be a superuser's. */
export async function rowsOf(tx: Tx, tenantIds: readonly string[]): Promise<Rows> {
  const tables = await tx.$queryRaw<{ name: string; columns: string[] }[]>`
    select c.relname::text "name", array_agg(a.attname::text) columns from pg_class c join pg_attribute a on a.attrelid = c.oid
     where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition and a.attname ~ '(^|_)tenant_id$'
     group by 1`;
  const own = tables.map(({ name, columns }): [string, string] => {
    const mine = columns.map((column) => `t.${column} = any ($1::uuid[])`).join(' or ');
    return [name, `select to_jsonb(t) "row" from ${name} t where ${mine} order by 1`];
  });
  const rows: Rows = new Map();
  for (const [name, sql] of [...own, ...Object.entries(THROUGH)]) {
    const found = await tx.$queryRawUnsafe<{ row: Record<string, unknown> }[]>(sql, tenantIds);
    rows.set(
      name,
      found.map(({ row }) => row),
    );
  }
  return rows;
}

/** Amounts and counts of fewer digits would be found by chance. */
const DIGITS_MIN = 9;
const LENGTH_MIN = 8;

/** Every text, id and long number in a JSON value. */
export function textsIn(value: unknown, found = new Set<string>()): Set<string> {
  if (typeof value === 'number' && String(value).length >= DIGITS_MIN) found.add(String(value));
  if (typeof value === 'string' && value.length >= LENGTH_MIN && !/^([A-Z_]+|\d{4}-\d\d-\d\dT.*)$/.test(value)) found.add(value);
  if (typeof value === 'object' && value !== null) for (const inner of Object.values(value)) textsIn(inner, found);
  return found;
}

/** What to look for in an answer: each text, and an id in every form in which the API shows one. */
export function needlesOf(texts: Iterable<string>): string[] {
  return [...texts].flatMap((text) => {
    if (!isId(text)) return [JSON.stringify(text).slice(1, -1)];
    return [text, Buffer.from(text).toString('base64url'), ...NODE_TYPES.map((type) => globalId(type, text))];
  });
}
