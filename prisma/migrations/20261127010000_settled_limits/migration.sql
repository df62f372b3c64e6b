-- A settlement that is refused for a limit tells which, whose, how much and until when, in the error's DETAIL.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- The limit of a counter as usage/limit-counters.ts reads it, with what was used and leased of it without the call. Amounts are text: JSON's readers round numbers.
CREATE FUNCTION mercato_limit_detail(counter_id uuid, used numeric, leased numeric) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT jsonb_build_object('counterId', k.id, 'limitId', l.id, 'name', l.name, 'subject', l.subject, 'subjectId', l.subject_id, 'measure', l.measure,
           'window', l.window, 'amount', l.amount::text, 'used', mercato_limit_detail.used::text, 'leased', mercato_limit_detail.leased::text,
           'resetsAt', e.at, 'windowMs', extract(epoch FROM e.at - mercato_now()) * 1000)::text
    FROM limit_counter k JOIN usage_limit l ON l.id = k.limit_id CROSS JOIN LATERAL (SELECT mercato_window_end(l.window, false, k.starts_at) at) e
   WHERE k.id = counter_id
$$;

-- Locks the counters of calls under limits, and admits again those whose lease was swept: MC002 where a hard limit of units, in force, has no room for them.
CREATE OR REPLACE FUNCTION mercato_lock_limits(given mercato_call[], present uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  full_limit text;
BEGIN
  PERFORM FROM limit_counter k WHERE k.id IN (SELECT unnest(c.counters) FROM unnest(given) c) ORDER BY k.id FOR UPDATE;
  SELECT mercato_limit_detail(k.id, k.used, k.leased) INTO full_limit
    FROM unnest(given) c CROSS JOIN unnest(c.counters) n (counter_id)
    JOIN limit_counter k ON k.id = n.counter_id
    JOIN usage_limit l ON l.id = k.limit_id AND l.hard AND l.removed_at IS NULL
   WHERE NOT c.lease_id = ANY (present) AND k.measure = 'UNITS' AND k.arrival_at IS NULL
   GROUP BY l.id, l.amount, k.id, k.used, k.leased
  HAVING k.used + k.leased + sum(c.units) > l.amount
   ORDER BY l.id LIMIT 1;
  IF full_limit IS NOT NULL THEN
    RAISE EXCEPTION 'a swept lease left no room in a limit' USING ERRCODE = 'MC002', DETAIL = full_limit;
  END IF;
END
$$;

-- Moves what was billed from leased to used in the counters of its limits, and tells of thresholds. What is billed of what a lease
-- held of spend is held no more, nor what the rest cannot cost. A lease that counted on free units may lack them where others settled first: MC002 where a hard
-- limit in force has no room for what its call costs beyond that.
CREATE OR REPLACE FUNCTION mercato_count_limits(given mercato_call[], present uuid[]) RETURNS void
  LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS $$
DECLARE
  changed uuid[];
  full_limit text;
BEGIN
  WITH billed AS (
    SELECT c.lease_id, c.counters, c.lease_id = ANY (present) leased, sum(r.units) units, sum(r.amount_nanos) nanos
      FROM unnest(given) c JOIN usage_record r ON r.period = c.period AND r.id = c.id
     WHERE c.counters IS NOT NULL GROUP BY 1, 2, 3
  ), kept AS (
    SELECT l.id, l.nanos before, least(greatest(0, l.nanos - b.nanos), l.units * coalesce(v.unit_price_nanos, 0)) nanos
      FROM billed b JOIN lease l ON l.id = b.lease_id
      JOIN usage_counter u USING (consumer_tenant_id, listing_id, period) LEFT JOIN plan_version v ON v.id = u.plan_version_id
  ), held AS (
    UPDATE lease l SET nanos = k.nanos FROM kept k WHERE l.id = k.id AND k.nanos <> k.before
  ), moving AS (
    SELECT n.counter_id, sum(b.units) units, sum(b.nanos) nanos, coalesce(sum(b.units) FILTER (WHERE b.leased), 0) leased_units,
           coalesce(sum(k.before - k.nanos), 0) leased_nanos
      FROM billed b LEFT JOIN kept k ON k.id = b.lease_id CROSS JOIN unnest(b.counters) n (counter_id) GROUP BY 1
  ), counted AS (
    UPDATE limit_counter k
       SET used = k.used + CASE k.measure WHEN 'UNITS' THEN m.units ELSE m.nanos END,
           leased = k.leased - CASE k.measure WHEN 'UNITS' THEN m.leased_units ELSE m.leased_nanos END
      FROM moving m WHERE k.id = m.counter_id AND k.measure <> 'CONCURRENCY' AND k.arrival_at IS NULL
    RETURNING k.id, k.limit_id, k.used, k.leased, m.nanos, k.measure = 'SPEND' AND m.nanos > m.leased_nanos more
  )
  SELECT array_agg(c.id),
         (array_agg(mercato_limit_detail(c.id, c.used - c.nanos, c.leased) ORDER BY l.id)
            FILTER (WHERE l.hard AND l.removed_at IS NULL AND c.more AND c.used + c.leased > l.amount))[1] INTO changed, full_limit
    FROM counted c JOIN usage_limit l ON l.id = c.limit_id;
  IF full_limit IS NOT NULL THEN
    RAISE EXCEPTION 'no room in a limit for what the call costs' USING ERRCODE = 'MC002', DETAIL = full_limit;
  END IF;
  PERFORM mercato_tell_thresholds(changed);
END
$$;

COMMIT;
