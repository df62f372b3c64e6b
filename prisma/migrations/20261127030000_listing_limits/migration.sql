-- A limit of a subscription is of every subscription of its consumer to the same listing: cancelling and subscribing again does not shed it.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- What was used of a limit in the window that it was set in, before it was set: whole hours from the rollups, a minute from its records.
CREATE OR REPLACE FUNCTION mercato_used_before("limit" usage_limit, starts_at timestamptz) RETURNS numeric LANGUAGE plpgsql STABLE AS $$
DECLARE
  found numeric;
  of_listing uuid;
BEGIN
  IF "limit".measure = 'CONCURRENCY' OR "limit".burst_units IS NOT NULL OR "limit".created_at < starts_at THEN
    RETURN 0;
  END IF;
  SELECT s.listing_id INTO of_listing FROM subscription s WHERE "limit".subject = 'SUBSCRIPTION' AND s.id = "limit".subject_id;
  IF "limit".window = 'MINUTE' THEN
    SELECT sum(CASE "limit".measure WHEN 'UNITS' THEN r.units ELSE r.amount_nanos END) INTO found
      FROM usage_record r
     WHERE r.consumer_tenant_id = "limit".tenant_id AND r.created_at >= starts_at
       AND CASE "limit".subject WHEN 'TENANT' THEN true WHEN 'SUBSCRIPTION' THEN r.listing_id = of_listing
             WHEN 'API_KEY' THEN r.api_key_id = "limit".subject_id
             ELSE r.user_id = "limit".subject_id OR r.api_key_id IN (SELECT k.id FROM api_key k WHERE k.created_by_user_id = "limit".subject_id) END;
  ELSE
    SELECT sum(CASE "limit".measure WHEN 'UNITS' THEN r.units ELSE r.amount_nanos END) INTO found
      FROM usage_rollup r
     WHERE r.consumer_tenant_id = "limit".tenant_id AND r.grain = 'HOUR' AND r.starts_at >= mercato_used_before.starts_at
       AND CASE "limit".subject WHEN 'TENANT' THEN true WHEN 'SUBSCRIPTION' THEN r.listing_id = of_listing
             WHEN 'API_KEY' THEN r.caller_id = "limit".subject_id
             ELSE r.caller_id = "limit".subject_id OR r.caller_id IN (SELECT k.id FROM api_key k WHERE k.created_by_user_id = "limit".subject_id) END;
  END IF;
  RETURN coalesce(found, 0);
END
$$;

COMMIT;
