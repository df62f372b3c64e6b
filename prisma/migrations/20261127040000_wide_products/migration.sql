-- What a lease's units cost at most is reckoned as numeric: at the dearest price ten of them are more than a bigint holds.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- Moves what was billed from leased to used in the counters of its limits, and tells of thresholds. What is billed of what a lease
-- held of spend is held no more, nor what the rest cannot cost. A lease that counted on free units may lack them where others settled first: MC002 where a hard
-- limit in force has no room for what its call costs beyond that; of a call that is settled alone the error's DETAIL has the free units that are left to it, and those that others
-- lease, too.
CREATE OR REPLACE FUNCTION mercato_count_limits(given mercato_call[], present uuid[]) RETURNS void
  LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS $$
DECLARE
  changed uuid[];
  full_limit text;
  free_units jsonb;
BEGIN
  WITH billed AS (
    SELECT c.lease_id, c.counters, c.lease_id = ANY (present) leased, sum(r.units) units, sum(r.amount_nanos) nanos
      FROM unnest(given) c JOIN usage_record r ON r.period = c.period AND r.id = c.id
     WHERE c.counters IS NOT NULL GROUP BY 1, 2, 3
  ), kept AS (
    SELECT l.id, l.nanos before, least(greatest(0, l.nanos - b.nanos), l.units::numeric * coalesce(v.unit_price_nanos, 0)) nanos
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
    SELECT jsonb_build_object('free', greatest(0, n.unused - u.leased_units)::text, 'leasedFree', least(n.unused, u.leased_units)::text) INTO free_units
      FROM unnest(given) c JOIN usage_counter u USING (consumer_tenant_id, listing_id, period) JOIN plan_version v ON v.id = c.plan_version_id
     CROSS JOIN LATERAL (SELECT greatest(0, v.free_units - (u.used_units - c.units)) unused) n LIMIT 1;
    RAISE EXCEPTION 'no room in a limit for what the call costs' USING ERRCODE = 'MC002', DETAIL = (full_limit::jsonb || free_units)::text;
  END IF;
  PERFORM mercato_tell_thresholds(changed);
END
$$;

COMMIT;
