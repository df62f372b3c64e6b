-- The group commit in one statement: over a connection each statement costs the server process 0.3–1 ms of its one thread, more than the
-- whole of this costs the database (2 cores, November 2026).
BEGIN;
SET LOCAL ROLE mercato_owner;

-- The cumulative price of the first `units` of a period; billing/prices.ts says the same, and a test holds the two equal.
CREATE FUNCTION mercato_price(units numeric, unit_price numeric, free_units numeric) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT coalesce(unit_price, 0) * greatest(0, units - coalesce(free_units, 0)) $$;

-- A finished prediction as prediction/settlement.ts sends it. `charge_id` is common to the calls of one subscription and period.
CREATE TYPE mercato_call AS (
  id uuid, period text, lease_id uuid, consumer_tenant_id uuid, publisher_tenant_id uuid, listing_id uuid, model_id uuid,
  model_version_id uuid, subscription_id uuid, plan_version_id uuid, api_key_id uuid, user_id uuid, units bigint, rows bigint, runs int,
  compute_micros bigint, bytes_in bigint, bytes_out bigint, charge_id uuid, wallet_id uuid, payable_id uuid, revenue_id uuid,
  key text, digest text, answer text, store_key text
);

-- Bills calls, given as an array of objects that hold what several calls share and, in `calls`, what is each one's own. Locks rows in the system's order (usage/usage.ts) and in key order within a table. `outcome` per call:
-- BILLED; REVOKED, its API key is no longer valid; LOST, its idempotency key was used before. A call whose lease was swept is admitted again
-- where its quota has room, else MC001 undoes the whole group; so does a wallet that would fall below its credit limit (a CHECK).
CREATE FUNCTION mercato_settle(groups jsonb, currency text, commission_bps int, replay_hours int)
  RETURNS TABLE (id uuid, outcome text, amount_nanos bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  given mercato_call[] := array(
    SELECT (c.id, g.period, g.lease_id, g.consumer_tenant_id, g.publisher_tenant_id, g.listing_id, g.model_id, g.model_version_id,
            g.subscription_id, g.plan_version_id, g.api_key_id, g.user_id, c.units, c.rows, c.runs, c.compute_micros, c.bytes_in, c.bytes_out,
            g.charge_id, g.wallet_id, g.payable_id, g.revenue_id, c.key, c.digest, c.answer, c.store_key)::mercato_call
      FROM jsonb_to_recordset(groups) AS g (period text, lease_id uuid, consumer_tenant_id uuid, publisher_tenant_id uuid, listing_id uuid,
             model_id uuid, model_version_id uuid, subscription_id uuid, plan_version_id uuid, api_key_id uuid, user_id uuid, charge_id uuid,
             wallet_id uuid, payable_id uuid, revenue_id uuid, calls jsonb),
           jsonb_to_recordset(g.calls) AS c (id uuid, units bigint, rows bigint, runs int, compute_micros bigint, bytes_in bigint,
             bytes_out bigint, key text, digest text, answer text, store_key text));
  valid uuid[];
  present uuid[];
  claimed uuid[];
BEGIN
  valid := array(
    SELECT k.id FROM api_key k
     WHERE k.id IN (SELECT c.api_key_id FROM unnest(given) c) AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > mercato_now())
     ORDER BY k.id FOR SHARE);
  present := array(SELECT l.id FROM lease l WHERE l.id IN (SELECT c.lease_id FROM unnest(given) c) ORDER BY l.id FOR UPDATE);
  PERFORM FROM usage_counter u
    WHERE (u.consumer_tenant_id, u.listing_id, u.period) IN (SELECT c.consumer_tenant_id, c.listing_id, c.period FROM unnest(given) c)
    ORDER BY u.consumer_tenant_id, u.listing_id, u.period FOR UPDATE;

  WITH won AS (
    INSERT INTO idempotency_key (tenant_id, key, digest, record_id, period)
    SELECT c.consumer_tenant_id, c.key, decode(c.digest, 'hex'), c.id, c.period FROM unnest(given) c
     WHERE c.key IS NOT NULL AND (c.api_key_id IS NULL OR c.api_key_id = ANY (valid))
     ORDER BY c.consumer_tenant_id, c.key
        ON CONFLICT DO NOTHING RETURNING record_id
  ), kept AS (
    INSERT INTO replay (record_id, tenant_id, answer, store_key, expires_at)
    SELECT c.id, c.consumer_tenant_id, decode(c.answer, 'base64'), c.store_key, mercato_now() + make_interval(hours => replay_hours)
      FROM unnest(given) c JOIN won ON won.record_id = c.id
  )
  SELECT coalesce(array_agg(record_id), '{}') INTO claimed FROM won;

  IF EXISTS (
    SELECT FROM unnest(given) c
      LEFT JOIN usage_counter u USING (consumer_tenant_id, listing_id, period)
     WHERE NOT c.lease_id = ANY (present)
     GROUP BY u.consumer_tenant_id, u.listing_id, u.period, u.used_units, u.leased_units, u.quota_units
    HAVING u.used_units IS NULL OR u.used_units + u.leased_units + sum(c.units) > u.quota_units
  ) THEN
    RAISE EXCEPTION 'a swept lease left no room' USING ERRCODE = 'MC001';
  END IF;

  RETURN QUERY
  WITH billed AS ( -- each call after those before it in its counter
    SELECT c.*, c.lease_id = ANY (present) leased,
           u.used_units + coalesce(sum(c.units) OVER (PARTITION BY c.consumer_tenant_id, c.listing_id, c.period
                                                      ORDER BY c.ord ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) n
      FROM unnest(given) WITH ORDINALITY AS c (id, period, lease_id, consumer_tenant_id, publisher_tenant_id, listing_id, model_id,
             model_version_id, subscription_id, plan_version_id, api_key_id, user_id, units, rows, runs, compute_micros, bytes_in, bytes_out,
             charge_id, wallet_id, payable_id, revenue_id, key, digest, answer, store_key, ord)
      JOIN usage_counter u USING (consumer_tenant_id, listing_id, period)
     WHERE (c.api_key_id IS NULL OR c.api_key_id = ANY (valid)) AND (c.key IS NULL OR c.id = ANY (claimed))
  ), priced AS (
    SELECT b.*, (mercato_price(b.n + b.units, v.unit_price_nanos, v.free_units) - mercato_price(b.n, v.unit_price_nanos, v.free_units))::bigint amount
      FROM billed b LEFT JOIN plan_version v ON v.id = b.plan_version_id
  ), recorded AS (
    INSERT INTO usage_record (id, period, consumer_tenant_id, publisher_tenant_id, listing_id, model_id, model_version_id, subscription_id,
      plan_version_id, api_key_id, user_id, units, rows, runs, compute_micros, bytes_in, bytes_out, amount_nanos, currency, transfer_id)
    SELECT p.id, p.period, p.consumer_tenant_id, p.publisher_tenant_id, p.listing_id, p.model_id, p.model_version_id, p.subscription_id,
           p.plan_version_id, p.api_key_id, p.user_id, p.units, p.rows, p.runs, p.compute_micros, p.bytes_in, p.bytes_out, p.amount,
           mercato_settle.currency, CASE WHEN p.amount > 0 THEN p.charge_id END
      FROM priced p
  ), lent AS (
    UPDATE lease l SET units = l.units - s.units
      FROM (SELECT p.lease_id, sum(p.units) units FROM priced p WHERE p.leased GROUP BY 1) s WHERE l.id = s.lease_id
  ), moving AS (
    SELECT u.consumer_tenant_id, u.listing_id, u.period, u.used_units, u.leased_units, u.plan_version_id, sum(p.units) units,
           coalesce(sum(p.units) FILTER (WHERE p.leased), 0) returned, (array_agg(p.wallet_id))[1] wallet_id
      FROM priced p JOIN usage_counter u USING (consumer_tenant_id, listing_id, period) GROUP BY 1, 2, 3, 4, 5, 6
  ), counted AS (
    UPDATE usage_counter u SET used_units = u.used_units + m.units, leased_units = u.leased_units - m.returned
      FROM moving m WHERE (u.consumer_tenant_id, u.listing_id, u.period) = (m.consumer_tenant_id, m.listing_id, m.period)
  ), held AS ( -- f(used + leased) − f(used), after less before
    SELECT m.wallet_id, mercato_price(m.used_units + m.units + m.leased_units - m.returned, v.unit_price_nanos, v.free_units)
             - mercato_price(m.used_units + m.units, v.unit_price_nanos, v.free_units)
             - mercato_price(m.used_units + m.leased_units, v.unit_price_nanos, v.free_units)
             + mercato_price(m.used_units, v.unit_price_nanos, v.free_units) nanos
      FROM moving m JOIN plan_version v ON v.id = m.plan_version_id
  ), due AS (
    SELECT p.charge_id, p.subscription_id, p.period, p.consumer_tenant_id, p.publisher_tenant_id, p.wallet_id, p.payable_id, p.revenue_id,
           sum(p.amount) amount
      FROM priced p WHERE p.amount > 0 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
  ), charged AS (
    INSERT INTO subscription_charge AS s (subscription_id, period, consumer_tenant_id, publisher_tenant_id, currency, commission_bps,
                                          amount_nanos, commission_nanos)
    SELECT d.subscription_id, d.period, d.consumer_tenant_id, d.publisher_tenant_id, mercato_settle.currency, mercato_settle.commission_bps,
           d.amount, div(d.amount * mercato_settle.commission_bps, 10000)
      FROM due d ORDER BY d.subscription_id, d.period
        ON CONFLICT (subscription_id, period) DO UPDATE
       SET amount_nanos = s.amount_nanos + excluded.amount_nanos,
           commission_nanos = div((s.amount_nanos + excluded.amount_nanos) * s.commission_bps, 10000)
    RETURNING s.subscription_id, s.period, s.commission_bps, s.amount_nanos, s.commission_nanos
  ), posted AS ( -- the commission of the sum, less what was posted of it
    SELECT d.*, s.commission_nanos - div((s.amount_nanos - d.amount) * s.commission_bps, 10000) commission
      FROM due d JOIN charged s USING (subscription_id, period)
  ), moved AS (
    INSERT INTO transfer (id, batch_id, kind, debit_account_id, credit_account_id, amount_nanos, currency, period, consumer_tenant_id,
                          publisher_tenant_id, subscription_id)
    SELECT p.charge_id, p.charge_id, 'CHARGE'::transfer_kind, p.wallet_id, p.payable_id, p.amount, mercato_settle.currency, p.period,
           p.consumer_tenant_id, p.publisher_tenant_id, p.subscription_id
      FROM posted p
    UNION ALL -- between the publisher and the platform: the consumer does not see it
    SELECT gen_random_uuid(), p.charge_id, 'COMMISSION'::transfer_kind, p.payable_id, p.revenue_id, p.commission, mercato_settle.currency,
           p.period, NULL, p.publisher_tenant_id, p.subscription_id
      FROM posted p WHERE p.commission > 0
  ), change AS (
    SELECT account_id, sum(balance) balance, sum(held) held FROM (
      SELECT p.wallet_id, -p.amount, 0::numeric FROM posted p
      UNION ALL SELECT p.payable_id, p.amount - p.commission, 0 FROM posted p
      UNION ALL SELECT p.revenue_id, p.commission, 0 FROM posted p
      UNION ALL SELECT h.wallet_id, 0, h.nanos FROM held h
    ) parts (account_id, balance, held) GROUP BY 1
  ), locked AS (
    SELECT a.id FROM account a WHERE a.id IN (SELECT account_id FROM change) ORDER BY a.id FOR UPDATE
  ), accounted AS (
    UPDATE account a SET balance_nanos = a.balance_nanos + change.balance, held_nanos = a.held_nanos + change.held
      FROM change JOIN locked ON locked.id = change.account_id WHERE a.id = locked.id
  )
  SELECT c.id, CASE WHEN p.id IS NOT NULL THEN 'BILLED'
                    WHEN c.api_key_id IS NULL OR c.api_key_id = ANY (valid) THEN 'LOST' ELSE 'REVOKED' END, p.amount
    FROM unnest(given) c LEFT JOIN priced p ON p.id = c.id;
END
$$;
REVOKE EXECUTE ON FUNCTION mercato_settle(jsonb, text, int, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mercato_settle(jsonb, text, int, int) TO mercato_system;

COMMIT;
