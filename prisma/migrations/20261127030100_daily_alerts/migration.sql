-- Alerts are bounded: limits of a minute or an hour tell once a UTC day for each percent and amount, and after 400 days an alert goes.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- Whichever of a limit's counters tells first.
CREATE UNIQUE INDEX "usage_alert_daily_key" ON "usage_alert" ("limit_id", "percent", "amount", "day") WHERE "day" <> '';

-- Tells of each threshold that counters of limits in force are at or past, once for each amount of the limit; of 0 used, none. Of windows shorter than a day once
-- for each UTC day that one begins in. With `refused`: that limits without a window let no call in, once for each amount and UTC day. In the order of the keys,
-- so that two that tell of other counters of the same limits wait for each other in turn.
CREATE OR REPLACE FUNCTION mercato_tell_thresholds(counters uuid[], refused boolean DEFAULT false) RETURNS void LANGUAGE sql AS $$
  WITH crossed AS (
    INSERT INTO usage_alert (tenant_id, limit_id, counter_id, day, percent, used, amount)
    SELECT k.tenant_id, k.limit_id, k.id,
           CASE WHEN refused THEN to_char(mercato_now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')
                WHEN l.window IN ('MINUTE', 'HOUR') THEN to_char(k.starts_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') ELSE '' END,
           p.percent, CASE WHEN refused THEN l.amount ELSE k.used END, l.amount
      FROM limit_counter k JOIN usage_limit l ON l.id = k.limit_id CROSS JOIN unnest(l.alert_percents) p (percent)
     WHERE k.id = ANY (counters) AND l.removed_at IS NULL
       AND CASE WHEN refused THEN p.percent = 100 ELSE k.used > 0 AND k.used * 100 >= l.amount::numeric * p.percent END
     ORDER BY k.limit_id, p.percent, k.starts_at
        ON CONFLICT DO NOTHING
    RETURNING *
  )
  INSERT INTO outbox (tenant_id, topic, payload)
  SELECT a.tenant_id, 'usage.alert', jsonb_build_object('alertId', a.id, 'limitId', a.limit_id, 'percent', a.percent,
                                                          'used', a.used::text, 'amount', a.amount::text)
    FROM crossed a
$$;

-- ─── What is old ───

DROP TRIGGER "usage_alert_append_only" ON "usage_alert";
CREATE TRIGGER "usage_alert_append_only" BEFORE UPDATE ON "usage_alert" FOR EACH ROW EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "usage_alert_append_only_for_400_days" BEFORE DELETE ON "usage_alert"
  FOR EACH ROW WHEN (OLD."created_at" >= mercato_now() - interval '400 days') EXECUTE FUNCTION mercato_refuse_change();

CREATE FUNCTION mercato_drop_old_alerts() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  DELETE FROM usage_alert WHERE created_at < mercato_now() - interval '400 days'
$$;
REVOKE EXECUTE ON FUNCTION mercato_drop_old_alerts() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mercato_drop_old_alerts() TO mercato_system;

COMMIT;
