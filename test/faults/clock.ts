import pg from 'pg';
import type { Stage } from './stage.ts';

/** From now on the database's clock shows, and goes on from, what this expression of SQL is now. */
export async function setClock(stage: Stage, instant: string): Promise<void> {
  const [row] = await ask<{ shift: string }>(stage, `select extract(epoch from ${instant} - clock_timestamp())::text shift`);
  await ask(
    stage,
    `create or replace function mercato_now() returns timestamptz language sql volatile
       as $$ select clock_timestamp() + interval '${row?.shift} s' $$`,
  );
}

/** Rows straight from the stage's database, as its owner. */
export async function ask<Row extends pg.QueryResultRow>(stage: Stage, sql: string, values: readonly unknown[] = []): Promise<Row[]> {
  const client = new pg.Client({ connectionString: stage.databaseUrl });
  await client.connect();
  try {
    return (await client.query<Row>(sql, [...values])).rows;
  } finally {
    await client.end();
  }
}
