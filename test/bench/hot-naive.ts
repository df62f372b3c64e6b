/** P7's baseline: one transaction per call, as one statement that counts, records and moves the money. Argument: the database. */
import pg from 'pg';
import { newId } from '../../src/base/ids.ts';
import { takeOrders, underLoad } from './hot-orders.ts';

// More connections only wait for the same rows: with ten a process it bills half as much.
const pool = new pg.Pool({ connectionString: process.argv[2], max: 1, keepAlive: true });
const text = `
  with counted as (
    update naive_counter set used = used + 1 where tenant_id = $1 and used + 1 <= quota returning tenant_id),
  recorded as (
    insert into naive_record (id, tenant_id, units, amount) select $2, tenant_id, 1, $3 from counted returning amount),
  moved as (
    update naive_account a set balance = a.balance + r.amount * case a.kind when 'WALLET' then -1 else 1 end from recorded r
     where a.tenant_id = $1 returning 1)
  select count(*)::int moved from moved`;

await takeOrders(async (order) => ({
  ...(await underLoad(order, async () => {
    const values = [order.right.consumerTenantId, newId(), order.right.terms?.unitPriceNanos];
    const { rows } = await pool.query<{ moved: number }>({ name: 'call', text, values });
    if (rows[0]?.moved !== 2) throw new Error('a call was not billed');
  })),
  groupMs: [],
}));
await pool.end();
