-- A limit that is changed holds at once for what was used before: bursts go on at the new rate, and thresholds already passed are told of.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- AlterTable
ALTER TABLE "limit_counter" ADD COLUMN "arrival_amount" BIGINT;
SET LOCAL ROLE mercato_system;
UPDATE limit_counter k SET arrival_amount = l.amount FROM usage_limit l WHERE l.id = k.limit_id AND k.arrival_at IS NOT NULL;
SET LOCAL ROLE mercato_owner;
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
