-- Limits that a tenant sets on itself, its subscriptions, members and API keys; their counters, alerts and outbox; and rollups of usage.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- CreateEnum
CREATE TYPE "limit_subject" AS ENUM ('TENANT', 'SUBSCRIPTION', 'MEMBER', 'API_KEY');

-- CreateEnum
CREATE TYPE "limit_measure" AS ENUM ('UNITS', 'SPEND', 'CONCURRENCY');

-- CreateEnum
CREATE TYPE "limit_window" AS ENUM ('MINUTE', 'HOUR', 'DAY', 'MONTH');

-- CreateEnum
CREATE TYPE "rollup_grain" AS ENUM ('HOUR', 'DAY');

-- AlterTable
ALTER TABLE "lease" ADD COLUMN "counters" UUID[] NOT NULL DEFAULT '{}', ADD COLUMN "slots" BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN "returns" BIGINT[] NOT NULL DEFAULT '{}';
ALTER TABLE "lease" ADD CONSTRAINT "lease_slots_check" CHECK ("slots" >= 0);

-- CreateTable
CREATE TABLE "usage_limit" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "subject" "limit_subject" NOT NULL,
    "subject_id" UUID NOT NULL,
    "measure" "limit_measure" NOT NULL,
    "window" "limit_window",
    "amount" BIGINT NOT NULL,
    "burst_units" BIGINT,
    "hard" BOOLEAN NOT NULL,
    "alert_percents" INTEGER[] NOT NULL,
    "removed_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "usage_limit_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "usage_limit_amount_check" CHECK ("amount" >= 0),
    CONSTRAINT "usage_limit_window_check" CHECK (("window" IS NULL) = ("measure" = 'CONCURRENCY')),
    CONSTRAINT "usage_limit_burst_check" CHECK ("burst_units" IS NULL OR ("burst_units" >= 1 AND "amount" >= 1 AND "measure" = 'UNITS' AND "window" = 'MINUTE' AND "hard")),
    CONSTRAINT "usage_limit_hard_check" CHECK ("hard" OR "measure" <> 'CONCURRENCY'),
    CONSTRAINT "usage_limit_tenant_check" CHECK ("subject" <> 'TENANT' OR "subject_id" = "tenant_id")
);

-- CreateTable
CREATE TABLE "limit_counter" (
    "id" UUID NOT NULL DEFAULT gen_random_uuid(),
    "tenant_id" UUID NOT NULL,
    "limit_id" UUID NOT NULL,
    "measure" "limit_measure" NOT NULL,
    "starts_at" TIMESTAMPTZ(3) NOT NULL,
    "used" DECIMAL(38,0) NOT NULL DEFAULT 0,
    "leased" DECIMAL(38,0) NOT NULL DEFAULT 0,
    "arrival_at" TIMESTAMPTZ(6),

    CONSTRAINT "limit_counter_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "limit_counter_check" CHECK ("used" >= 0 AND "leased" >= 0)
);

-- CreateTable
CREATE TABLE "usage_alert" (
    "id" UUID NOT NULL DEFAULT gen_random_uuid(),
    "tenant_id" UUID NOT NULL,
    "limit_id" UUID NOT NULL,
    "counter_id" UUID NOT NULL,
    "percent" INTEGER NOT NULL,
    "used" DECIMAL(38,0) NOT NULL,
    "amount" BIGINT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "usage_alert_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "outbox" (
    "id" UUID NOT NULL DEFAULT gen_random_uuid(),
    "tenant_id" UUID NOT NULL,
    "topic" TEXT NOT NULL,
    "payload" JSONB NOT NULL,
    "delivered_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "outbox_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "usage_rollup" (
    "consumer_tenant_id" UUID NOT NULL,
    "grain" "rollup_grain" NOT NULL,
    "starts_at" TIMESTAMPTZ(3) NOT NULL,
    "listing_id" UUID NOT NULL,
    "subscription_id" UUID NOT NULL,
    "caller_id" UUID NOT NULL,
    "by_key" BOOLEAN NOT NULL,
    "currency" TEXT NOT NULL,
    "publisher_tenant_id" UUID NOT NULL,
    "predictions" BIGINT NOT NULL,
    "units" DECIMAL(38,0) NOT NULL,
    "compute_micros" DECIMAL(38,0) NOT NULL,
    "amount_nanos" DECIMAL(38,0) NOT NULL,

    CONSTRAINT "usage_rollup_pkey" PRIMARY KEY ("consumer_tenant_id","grain","starts_at","listing_id","subscription_id","caller_id")
);

-- CreateIndex
CREATE INDEX "usage_limit_tenant_id_id_idx" ON "usage_limit"("tenant_id", "id");

-- CreateIndex
CREATE UNIQUE INDEX "limit_counter_limit_id_starts_at_key" ON "limit_counter"("limit_id", "starts_at");

-- CreateIndex
CREATE INDEX "limit_counter_tenant_id_idx" ON "limit_counter"("tenant_id");

-- CreateIndex
CREATE INDEX "usage_alert_tenant_id_created_at_id_idx" ON "usage_alert"("tenant_id", "created_at", "id");

-- CreateIndex
CREATE UNIQUE INDEX "usage_alert_counter_id_percent_amount_key" ON "usage_alert"("counter_id", "percent", "amount");

-- CreateIndex
CREATE INDEX "outbox_tenant_id_idx" ON "outbox"("tenant_id");

-- CreateIndex
CREATE INDEX "usage_rollup_publisher_tenant_id_idx" ON "usage_rollup"("publisher_tenant_id");

-- AddForeignKey
ALTER TABLE "limit_counter" ADD CONSTRAINT "limit_counter_limit_id_fkey" FOREIGN KEY ("limit_id") REFERENCES "usage_limit"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "usage_alert" ADD CONSTRAINT "usage_alert_limit_id_fkey" FOREIGN KEY ("limit_id") REFERENCES "usage_limit"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- Names are those of a tenant's limits in force.
CREATE UNIQUE INDEX "usage_limit_name_key" ON "usage_limit"("tenant_id", "name") WHERE "removed_at" IS NULL;

-- What a limit is about never changes, so that what was counted for it stays true.
CREATE FUNCTION mercato_keep_usage_limit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.id, NEW.tenant_id, NEW.subject, NEW.subject_id, NEW.measure, NEW.window, NEW.burst_units IS NULL, NEW.created_at)
     IS DISTINCT FROM (OLD.id, OLD.tenant_id, OLD.subject, OLD.subject_id, OLD.measure, OLD.window, OLD.burst_units IS NULL, OLD.created_at)
     OR OLD.removed_at IS NOT NULL THEN
    RAISE EXCEPTION 'what usage_limit % is about is immutable', OLD.id USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER "usage_limit_immutable" BEFORE UPDATE ON "usage_limit" FOR EACH ROW EXECUTE FUNCTION mercato_keep_usage_limit();
CREATE TRIGGER "usage_alert_append_only" BEFORE UPDATE OR DELETE ON "usage_alert" FOR EACH ROW EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "usage_alert_no_truncate" BEFORE TRUNCATE ON "usage_alert" FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change();

-- Where a rollup has no subscription or caller: a publisher's own calls.
CREATE FUNCTION mercato_nobody() RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT '00000000-0000-0000-0000-000000000000'::uuid $$;

-- When the window that holds an instant starts, UTC; without a window (concurrency, bursts) the one that never ends.
CREATE FUNCTION mercato_window_start("window" limit_window, bursts boolean, instant timestamptz) RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN "window" IS NULL OR bursts THEN 'epoch'::timestamptz ELSE date_trunc(lower("window"::text), instant, 'UTC') END
$$;
CREATE FUNCTION mercato_window_end("window" limit_window, bursts boolean, instant timestamptz) RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN "window" IS NULL OR bursts THEN NULL
              ELSE (date_trunc(lower("window"::text), instant AT TIME ZONE 'UTC') + ('1 ' || "window"::text)::interval) AT TIME ZONE 'UTC' END
$$;

-- What was used of a limit in the window that it was set in, before it was set: whole hours from the rollups, a minute from its records.
CREATE FUNCTION mercato_used_before("limit" usage_limit, starts_at timestamptz) RETURNS numeric LANGUAGE plpgsql STABLE AS $$
DECLARE
  found numeric;
BEGIN
  IF "limit".measure = 'CONCURRENCY' OR "limit".burst_units IS NOT NULL OR "limit".created_at < starts_at THEN
    RETURN 0;
  ELSIF "limit".window = 'MINUTE' THEN
    SELECT sum(CASE "limit".measure WHEN 'UNITS' THEN r.units ELSE r.amount_nanos END) INTO found
      FROM usage_record r
     WHERE r.consumer_tenant_id = "limit".tenant_id AND r.created_at >= starts_at
       AND CASE "limit".subject WHEN 'TENANT' THEN true WHEN 'SUBSCRIPTION' THEN r.subscription_id = "limit".subject_id
             WHEN 'API_KEY' THEN r.api_key_id = "limit".subject_id
             ELSE r.user_id = "limit".subject_id OR r.api_key_id IN (SELECT k.id FROM api_key k WHERE k.created_by_user_id = "limit".subject_id) END;
  ELSE
    SELECT sum(CASE "limit".measure WHEN 'UNITS' THEN r.units ELSE r.amount_nanos END) INTO found
      FROM usage_rollup r
     WHERE r.consumer_tenant_id = "limit".tenant_id AND r.grain = 'HOUR' AND r.starts_at >= mercato_used_before.starts_at
       AND CASE "limit".subject WHEN 'TENANT' THEN true WHEN 'SUBSCRIPTION' THEN r.subscription_id = "limit".subject_id
             WHEN 'API_KEY' THEN r.caller_id = "limit".subject_id
             ELSE r.caller_id = "limit".subject_id OR r.caller_id IN (SELECT k.id FROM api_key k WHERE k.created_by_user_id = "limit".subject_id) END;
  END IF;
  RETURN coalesce(found, 0);
END
$$;

-- Locks the counters of calls under limits, and admits again those whose lease was swept: MC002 where a hard limit has no room for them.
ALTER TYPE mercato_call ADD ATTRIBUTE counters uuid[];
CREATE FUNCTION mercato_lock_limits(given mercato_call[], present uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  full_limit uuid;
BEGIN
  PERFORM FROM limit_counter k WHERE k.id IN (SELECT unnest(c.counters) FROM unnest(given) c) ORDER BY k.id FOR UPDATE;
  SELECT l.id INTO full_limit
    FROM unnest(given) c CROSS JOIN unnest(c.counters) n (counter_id)
    JOIN limit_counter k ON k.id = n.counter_id
    JOIN usage_limit l ON l.id = k.limit_id AND l.hard
    LEFT JOIN plan_version v ON v.id = c.plan_version_id
   WHERE NOT c.lease_id = ANY (present) AND k.measure <> 'CONCURRENCY' AND k.arrival_at IS NULL
   GROUP BY l.id, l.amount, k.id, k.used, k.leased, k.measure
  HAVING k.used + k.leased + sum(c.units * CASE k.measure WHEN 'UNITS' THEN 1 ELSE coalesce(v.unit_price_nanos, 0) END) > l.amount
   ORDER BY l.id LIMIT 1;
  IF full_limit IS NOT NULL THEN
    RAISE EXCEPTION 'a swept lease left no room in limit %', full_limit USING ERRCODE = 'MC002';
  END IF;
END
$$;

-- Moves what was billed from leased to used in the counters of its limits, and tells of each threshold that was crossed by it.
CREATE FUNCTION mercato_count_limits(given mercato_call[], present uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  WITH moving AS (
    SELECT n.counter_id, sum(s.units) units, sum(s.nanos) nanos, sum(s.units) FILTER (WHERE s.leased) leased_units,
           sum(s.units * coalesce(v.unit_price_nanos, 0)) FILTER (WHERE s.leased) leased_nanos
      FROM (SELECT c.counters, c.plan_version_id, c.lease_id = ANY (present) leased, sum(r.units) units, sum(r.amount_nanos) nanos
              FROM unnest(given) c JOIN usage_record r ON r.period = c.period AND r.id = c.id
             WHERE c.counters IS NOT NULL GROUP BY 1, 2, 3) s
      LEFT JOIN plan_version v ON v.id = s.plan_version_id
     CROSS JOIN unnest(s.counters) n (counter_id) GROUP BY 1
  ), counted AS (
    UPDATE limit_counter k
       SET used = k.used + CASE k.measure WHEN 'UNITS' THEN m.units ELSE m.nanos END,
           leased = k.leased - CASE k.measure WHEN 'UNITS' THEN coalesce(m.leased_units, 0) ELSE coalesce(m.leased_nanos, 0) END
      FROM moving m WHERE k.id = m.counter_id AND k.measure <> 'CONCURRENCY' AND k.arrival_at IS NULL
    RETURNING k.id, k.limit_id, k.tenant_id, k.used, k.used - CASE k.measure WHEN 'UNITS' THEN m.units ELSE m.nanos END used_before
  ), crossed AS (
    INSERT INTO usage_alert (tenant_id, limit_id, counter_id, percent, used, amount)
    SELECT k.tenant_id, k.limit_id, k.id, p.percent, k.used, l.amount
      FROM counted k JOIN usage_limit l ON l.id = k.limit_id CROSS JOIN unnest(l.alert_percents) p (percent)
     WHERE k.used_before * 100 < l.amount::numeric * p.percent AND k.used * 100 >= l.amount::numeric * p.percent
        ON CONFLICT (counter_id, percent, amount) DO NOTHING
    RETURNING *
  )
  INSERT INTO outbox (tenant_id, topic, payload)
  SELECT a.tenant_id, 'usage.alert', jsonb_build_object('alertId', a.id, 'limitId', a.limit_id, 'percent', a.percent,
                                                          'used', a.used::text, 'amount', a.amount::text)
    FROM crossed a;
END
$$;

-- Bills calls, given as an array of objects that hold what several calls share and, in `calls`, what is each one's own. Locks rows in the system's order (usage/usage.ts) and in key order within a table. `outcome` per call:
-- BILLED; REVOKED, its API key is no longer valid; LOST, its idempotency key was used before. A call whose lease was swept is admitted again
-- where its quota has room, else MC001 undoes the whole group, and MC002 where a limit has none; so does a wallet that would fall below its credit
-- limit (a CHECK).
CREATE OR REPLACE FUNCTION mercato_settle(groups jsonb, currency text, commission_bps int, replay_hours int)
  RETURNS TABLE (id uuid, outcome text, amount_nanos bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  given mercato_call[] := array(
    SELECT (c.id, g.period, g.lease_id, g.consumer_tenant_id, g.publisher_tenant_id, g.listing_id, g.model_id, g.model_version_id,
            g.subscription_id, g.plan_version_id, g.api_key_id, g.user_id, c.units, c.rows, c.runs, c.compute_micros, c.bytes_in, c.bytes_out,
            g.charge_id, g.wallet_id, g.payable_id, g.revenue_id, c.key, c.digest, c.answer, c.store_key, g.counters)::mercato_call
      FROM jsonb_to_recordset(groups) AS g (period text, lease_id uuid, consumer_tenant_id uuid, publisher_tenant_id uuid, listing_id uuid,
             model_id uuid, model_version_id uuid, subscription_id uuid, plan_version_id uuid, api_key_id uuid, user_id uuid, charge_id uuid,
             wallet_id uuid, payable_id uuid, revenue_id uuid, counters uuid[], calls jsonb),
           jsonb_to_recordset(g.calls) AS c (id uuid, units bigint, rows bigint, runs int, compute_micros bigint, bytes_in bigint,
             bytes_out bigint, key text, digest text, answer text, store_key text));
  -- What the calls of a group share, once: enough to know what to lock.
  heads mercato_call[] := array(
    SELECT (NULL, g.period, g.lease_id, g.consumer_tenant_id, NULL, g.listing_id, NULL, NULL, NULL, g.plan_version_id, g.api_key_id, NULL,
            NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, g.counters)::mercato_call
      FROM jsonb_to_recordset(groups) AS g (period text, lease_id uuid, consumer_tenant_id uuid, listing_id uuid, plan_version_id uuid,
             api_key_id uuid, counters uuid[]));
  valid uuid[];
  present uuid[];
  claimed uuid[] := '{}';
  limited boolean := groups @? '$[*].counters';
BEGIN
  valid := array(
    SELECT k.id FROM api_key k
     WHERE k.id IN (SELECT c.api_key_id FROM unnest(heads) c) AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > mercato_now())
     ORDER BY k.id FOR SHARE);
  present := array(SELECT l.id FROM lease l WHERE l.id IN (SELECT c.lease_id FROM unnest(heads) c) ORDER BY l.id FOR UPDATE);
  PERFORM FROM usage_counter u
    WHERE (u.consumer_tenant_id, u.listing_id, u.period) IN (SELECT c.consumer_tenant_id, c.listing_id, c.period FROM unnest(heads) c)
    ORDER BY u.consumer_tenant_id, u.listing_id, u.period FOR UPDATE;
  IF limited THEN
    PERFORM mercato_lock_limits(given, present);
  END IF;

  IF groups @? '$[*].calls[*].key' THEN
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
  END IF;

  IF EXISTS (SELECT FROM unnest(heads) h WHERE NOT h.lease_id = ANY (present)) AND EXISTS (
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
             charge_id, wallet_id, payable_id, revenue_id, key, digest, answer, store_key, counters, ord)
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
    RETURNING consumer_tenant_id, publisher_tenant_id, listing_id, subscription_id, api_key_id, user_id, units, compute_micros, amount_nanos,
              usage_record.currency, created_at
  ), hours AS ( -- by the records' own instants, so that a rollup is the sum of its records whenever it is read
    SELECT r.consumer_tenant_id, date_trunc('hour', r.created_at, 'UTC') starts_at, r.listing_id,
           coalesce(r.subscription_id, mercato_nobody()) subscription_id, coalesce(r.api_key_id, r.user_id, mercato_nobody()) caller_id,
           r.api_key_id IS NOT NULL by_key, r.currency, r.publisher_tenant_id, count(*) predictions, sum(r.units) units,
           sum(r.compute_micros) compute_micros, sum(r.amount_nanos) amount_nanos
      FROM recorded r GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
  ), rolled AS (
    INSERT INTO usage_rollup AS u (consumer_tenant_id, grain, starts_at, listing_id, subscription_id, caller_id, by_key, currency,
                                   publisher_tenant_id, predictions, units, compute_micros, amount_nanos)
    SELECT h.consumer_tenant_id, g.grain, date_trunc(g.field, h.starts_at, 'UTC'), h.listing_id, h.subscription_id, h.caller_id, h.by_key,
           h.currency, h.publisher_tenant_id, sum(h.predictions), sum(h.units), sum(h.compute_micros), sum(h.amount_nanos)
      FROM hours h, (VALUES ('HOUR'::rollup_grain, 'hour'), ('DAY', 'day')) g (grain, field)
     GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ORDER BY 1, 2, 3, 4, 5, 6
        ON CONFLICT (consumer_tenant_id, grain, starts_at, listing_id, subscription_id, caller_id) DO UPDATE
       SET predictions = u.predictions + excluded.predictions, units = u.units + excluded.units,
           compute_micros = u.compute_micros + excluded.compute_micros, amount_nanos = u.amount_nanos + excluded.amount_nanos
  ), lent AS (
    UPDATE lease l SET units = l.units - s.units
      FROM (SELECT p.lease_id, sum(p.units) units FROM priced p WHERE p.leased GROUP BY 1) s WHERE l.id = s.lease_id
  ), moving AS (
    SELECT u.consumer_tenant_id, u.listing_id, u.period, u.used_units, u.leased_units, u.plan_version_id, s.units, s.returned, s.wallet_id
      FROM (SELECT p.consumer_tenant_id, p.listing_id, p.period, sum(p.units) units, coalesce(sum(p.units) FILTER (WHERE p.leased), 0) returned,
                   (array_agg(p.wallet_id))[1] wallet_id
              FROM priced p GROUP BY 1, 2, 3) s JOIN usage_counter u USING (consumer_tenant_id, listing_id, period)
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

  IF limited THEN
    PERFORM mercato_count_limits(given, present);
  END IF;
END
$$;

-- ─── Walls ───
ALTER TABLE "usage_limit" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "usage_limit" FORCE ROW LEVEL SECURITY;
ALTER TABLE "limit_counter" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "limit_counter" FORCE ROW LEVEL SECURITY;
ALTER TABLE "usage_alert" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "usage_alert" FORCE ROW LEVEL SECURITY;
ALTER TABLE "outbox" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "outbox" FORCE ROW LEVEL SECURITY;
ALTER TABLE "usage_rollup" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "usage_rollup" FORCE ROW LEVEL SECURITY;

GRANT SELECT ON "usage_limit" TO mercato_system;
CREATE POLICY "system" ON "usage_limit" FOR SELECT TO mercato_system USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON "limit_counter" TO mercato_system;
GRANT SELECT, INSERT, UPDATE ON "usage_rollup", "outbox" TO mercato_system;
CREATE POLICY "system" ON "limit_counter" TO mercato_system USING (true) WITH CHECK (true);
CREATE POLICY "system" ON "usage_rollup" TO mercato_system USING (true) WITH CHECK (true);
CREATE POLICY "system" ON "outbox" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON "usage_alert" TO mercato_system;
CREATE POLICY "system" ON "usage_alert" TO mercato_system USING (true) WITH CHECK (true);

GRANT SELECT, INSERT, UPDATE ON "usage_limit" TO mercato_tenant;
CREATE POLICY "own" ON "usage_limit" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
GRANT SELECT ON "limit_counter", "usage_alert", "usage_rollup" TO mercato_tenant;
CREATE POLICY "own" ON "limit_counter" FOR SELECT TO mercato_tenant USING ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "usage_alert" FOR SELECT TO mercato_tenant USING ("tenant_id" = mercato_tenant_id());
CREATE POLICY "sides" ON "usage_rollup" FOR SELECT TO mercato_tenant
  USING (mercato_tenant_id() IN ("consumer_tenant_id", "publisher_tenant_id"));

-- What was recorded before there were rollups; their table's owner passes no policy of its own.
ALTER TABLE "usage_rollup" NO FORCE ROW LEVEL SECURITY;
ALTER TABLE "usage_record" NO FORCE ROW LEVEL SECURITY;
INSERT INTO usage_rollup (consumer_tenant_id, grain, starts_at, listing_id, subscription_id, caller_id, by_key, currency, publisher_tenant_id,
                          predictions, units, compute_micros, amount_nanos)
SELECT r.consumer_tenant_id, g.grain, date_trunc(g.field, r.created_at, 'UTC'), r.listing_id, coalesce(r.subscription_id, mercato_nobody()),
       coalesce(r.api_key_id, r.user_id, mercato_nobody()), r.api_key_id IS NOT NULL, r.currency, r.publisher_tenant_id,
       count(*), sum(r.units), sum(r.compute_micros), sum(r.amount_nanos)
  FROM usage_record r, (VALUES ('HOUR'::rollup_grain, 'hour'), ('DAY', 'day')) g (grain, field)
 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9;
ALTER TABLE "usage_rollup" FORCE ROW LEVEL SECURITY;
ALTER TABLE "usage_record" FORCE ROW LEVEL SECURITY;

COMMIT;
