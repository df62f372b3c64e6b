/**
 * The tables of the books as they concern tenant $1 as a consumer or a publisher, for a query to stand behind: its names of tables mean these. Arrays
 * make the planner read by an index, whatever it takes the number of rows for. A transfer also concerns whose accounts it moves, and a consumer the
 * commission in the batch of its charge, which names the publisher alone.
 */
export const TENANT_SCOPE = `
  with account as materialized (
    select * from public.account where tenant_id = $1::uuid),
  transfer as materialized (
    with own (id, batch_id) as (
      select id, batch_id from public.transfer where consumer_tenant_id = $1::uuid
      union select id, batch_id from public.transfer where publisher_tenant_id = $1::uuid
      union select id, batch_id from public.transfer where debit_account_id = any (array(select id from account))
      union select id, batch_id from public.transfer where credit_account_id = any (array(select id from account)))
    select * from public.transfer where id = any (array(select id from own))
    union select * from public.transfer where batch_id = any (array(select batch_id from own))),
  named_account as materialized (
    select * from public.account where id = any (array(select debit_account_id from transfer union select credit_account_id from transfer))),
  named_transfer as materialized (
    select * from public.transfer where id = any (array(select unnest(array[pending_id, reverses_id]) from transfer))
    union select * from public.transfer
     where pending_id = any (array(select case phase when 'PENDING' then id else pending_id end from transfer where phase = 'PENDING' or pending_id is not null))
    union select * from public.transfer where reverses_id = any (array(select reverses_id from transfer where reverses_id is not null))),
  usage_counter as materialized (
    select * from public.usage_counter where consumer_tenant_id = $1::uuid
    union select * from public.usage_counter where publisher_tenant_id = $1::uuid),
  lease as materialized (
    select * from public.lease where consumer_tenant_id = $1::uuid
    union select l.* from usage_counter c join public.lease l using (consumer_tenant_id, listing_id, period)),
  usage_record as materialized (
    select * from public.usage_record where consumer_tenant_id = $1::uuid
    union all select * from public.usage_record where publisher_tenant_id = $1::uuid and consumer_tenant_id <> $1::uuid),
  usage_rollup as materialized (
    select * from public.usage_rollup where consumer_tenant_id = $1::uuid
    union all select * from public.usage_rollup where publisher_tenant_id = $1::uuid and consumer_tenant_id <> $1::uuid),
  limit_counter as materialized (
    select * from public.limit_counter where tenant_id = $1::uuid),
  usage_alert as materialized (
    select * from public.usage_alert where tenant_id = $1::uuid),
  outbox as materialized (
    select * from public.outbox where tenant_id = $1::uuid),
  idempotency_key as materialized (
    select * from public.idempotency_key where tenant_id = $1::uuid),
  subscription_charge as materialized (
    select * from public.subscription_charge where consumer_tenant_id = $1::uuid
    union select * from public.subscription_charge where publisher_tenant_id = $1::uuid)`;
