-- A limit that is changed holds at once for what was used before: bursts go on at the new rate, and thresholds already passed are told of.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- AlterTable
ALTER TABLE "limit_counter" ADD COLUMN "arrival_amount" BIGINT;
UPDATE limit_counter k SET arrival_amount = l.amount FROM usage_limit l WHERE l.id = k.limit_id AND k.arrival_at IS NOT NULL;
ALTER TABLE "limit_counter" ADD CONSTRAINT "limit_counter_arrival_check" CHECK (("arrival_at" IS NULL) = ("arrival_amount" IS NULL) AND "arrival_amount" > 0);

-- Tells of each threshold that counters are at or past, once for each amount of the limit; of 0 used, none.
CREATE FUNCTION mercato_tell_thresholds(counters uuid[]) RETURNS void LANGUAGE sql AS $$
  WITH crossed AS (
    INSERT INTO usage_alert (tenant_id, limit_id, counter_id, percent, used, amount)
    SELECT k.tenant_id, k.limit_id, k.id, p.percent, k.used, l.amount
      FROM limit_counter k JOIN usage_limit l ON l.id = k.limit_id CROSS JOIN unnest(l.alert_percents) p (percent)
     WHERE k.id = ANY (counters) AND k.used > 0 AND k.used * 100 >= l.amount::numeric * p.percent
     ORDER BY k.id, p.percent
        ON CONFLICT (counter_id, percent, amount) DO NOTHING
    RETURNING *
  )
  INSERT INTO outbox (tenant_id, topic, payload)
  SELECT a.tenant_id, 'usage.alert', jsonb_build_object('alertId', a.id, 'limitId', a.limit_id, 'percent', a.percent,
                                                          'used', a.used::text, 'amount', a.amount::text)
    FROM crossed a
$$;

-- Moves what was billed from leased to used in the counters of its limits, and tells of thresholds.
CREATE OR REPLACE FUNCTION mercato_count_limits(given mercato_call[], present uuid[]) RETURNS void
  LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS $$
DECLARE
  changed uuid[];
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
    RETURNING k.id
  )
  SELECT array_agg(id) INTO changed FROM counted;
  PERFORM mercato_tell_thresholds(changed);
END
$$;

-- After a change of a limit, with its open counter locked, so that no settlement counts in between. Seconds ahead of now become the seconds that the
-- same units take at the new rate.
CREATE FUNCTION mercato_follow_usage_limit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  open_counter uuid;
BEGIN
  SELECT k.id INTO open_counter FROM limit_counter k
   WHERE k.limit_id = NEW.id AND k.starts_at = mercato_window_start(NEW.window, NEW.burst_units IS NOT NULL, mercato_now()) FOR UPDATE;
  UPDATE limit_counter k
     SET arrival_at = mercato_now() + greatest('0', k.arrival_at - mercato_now()) * (k.arrival_amount::float8 / NEW.amount), arrival_amount = NEW.amount
   WHERE k.id = open_counter AND k.arrival_at IS NOT NULL;
  PERFORM mercato_tell_thresholds(ARRAY[open_counter]);
  RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION mercato_follow_usage_limit() FROM PUBLIC;
CREATE TRIGGER "usage_limit_followed" AFTER UPDATE ON "usage_limit" FOR EACH ROW WHEN (NEW."removed_at" IS NULL) EXECUTE FUNCTION mercato_follow_usage_limit();

-- ─── Walls ───

-- What follows a change does so as the owner, from whom forced row-level security hides the rows: a tenant may change its limits, not what is counted.
CREATE POLICY "owner" ON "limit_counter" TO mercato_owner USING (true) WITH CHECK (true);
CREATE POLICY "owner" ON "usage_limit" FOR SELECT TO mercato_owner USING (true);
CREATE POLICY "owner" ON "usage_alert" TO mercato_owner USING (true) WITH CHECK (true);
CREATE POLICY "owner" ON "outbox" TO mercato_owner USING (true) WITH CHECK (true);

COMMIT;
