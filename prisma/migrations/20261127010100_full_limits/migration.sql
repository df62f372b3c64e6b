-- A limit of calls in flight tells when it refuses a call, once a day. What is leased of it are places that calls may take, so that no other percent would be true.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- DropIndex
DROP INDEX "usage_alert_counter_id_percent_amount_key";

-- AlterTable
ALTER TABLE "usage_alert" ADD COLUMN "day" TEXT NOT NULL DEFAULT '';

-- CreateIndex
CREATE UNIQUE INDEX "usage_alert_counter_id_percent_amount_day_key" ON "usage_alert"("counter_id", "percent", "amount", "day");

-- Tells of each threshold that counters of limits in force are at or past, once for each amount of the limit; of 0 used, none. With `refused`: that limits
-- without a window let no call in, once for each amount and UTC day.
DROP FUNCTION mercato_tell_thresholds(uuid[]);
CREATE FUNCTION mercato_tell_thresholds(counters uuid[], refused boolean DEFAULT false) RETURNS void LANGUAGE sql AS $$
  WITH crossed AS (
    INSERT INTO usage_alert (tenant_id, limit_id, counter_id, day, percent, used, amount)
    SELECT k.tenant_id, k.limit_id, k.id, CASE WHEN refused THEN to_char(mercato_now() AT TIME ZONE 'UTC', 'YYYY-MM-DD') ELSE '' END,
           p.percent, CASE WHEN refused THEN l.amount ELSE k.used END, l.amount
      FROM limit_counter k JOIN usage_limit l ON l.id = k.limit_id CROSS JOIN unnest(l.alert_percents) p (percent)
     WHERE k.id = ANY (counters) AND l.removed_at IS NULL
       AND CASE WHEN refused THEN p.percent = 100 ELSE k.used > 0 AND k.used * 100 >= l.amount::numeric * p.percent END
     ORDER BY k.id, p.percent
        ON CONFLICT (counter_id, percent, amount, day) DO NOTHING
    RETURNING *
  )
  INSERT INTO outbox (tenant_id, topic, payload)
  SELECT a.tenant_id, 'usage.alert', jsonb_build_object('alertId', a.id, 'limitId', a.limit_id, 'percent', a.percent,
                                                          'used', a.used::text, 'amount', a.amount::text)
    FROM crossed a
$$;

COMMIT;
