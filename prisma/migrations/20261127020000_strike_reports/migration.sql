-- What a publisher learns of its versions' strikes and of consumers that they suspended: not who these are. So it does not read the tables, but what
-- these functions make of its own rows.
BEGIN;
SET LOCAL ROLE mercato_owner;

CREATE POLICY "owner" ON "strike" FOR SELECT TO mercato_owner USING ("publisher_tenant_id" = mercato_tenant_id());
CREATE POLICY "owner" ON "suspension" FOR SELECT TO mercato_owner USING ("publisher_tenant_id" = mercato_tenant_id());

-- Of each version of the current tenant the newest 100; `own`: by a call of the tenant itself; `consumers`: how many others' calls they were.
CREATE FUNCTION mercato_strikes(version_ids uuid[]) RETURNS TABLE (version_id uuid, at timestamptz, kind strike_kind, own boolean, consumers int)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  WITH latest AS (
    SELECT s.* FROM unnest(version_ids) v (id)
      CROSS JOIN LATERAL (SELECT * FROM strike WHERE strike.version_id = v.id ORDER BY created_at DESC, strike.id DESC LIMIT 100) s
  ), counted AS (
    SELECT l.version_id, count(DISTINCT l.consumer_tenant_id) FILTER (WHERE l.consumer_tenant_id <> l.publisher_tenant_id)::int consumers
      FROM latest l GROUP BY 1
  )
  SELECT l.version_id, l.created_at, l.kind, l.consumer_tenant_id = l.publisher_tenant_id, c.consumers
    FROM latest l JOIN counted c ON c.version_id = l.version_id ORDER BY l.created_at DESC, l.id DESC
$$;
REVOKE EXECUTE ON FUNCTION mercato_strikes(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mercato_strikes(uuid[]) TO mercato_tenant;

-- Of each version of the current tenant the 100 longest of the open suspensions of single consumers, and how many there are.
CREATE FUNCTION mercato_consumer_suspensions(version_ids uuid[])
  RETURNS TABLE (version_id uuid, since timestamptz, until timestamptz, reason text, consumers int)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT v.id, s.since, s.until, s.reason, s.consumers FROM unnest(version_ids) v (id)
    CROSS JOIN LATERAL (
      SELECT o.since, o.until, o.reason, count(*) OVER ()::int consumers FROM suspension o
       WHERE o.version_id = v.id AND o.ended_at IS NULL AND o.consumer_tenant_id <> o.publisher_tenant_id
       ORDER BY o.until DESC, o.id LIMIT 100) s
   ORDER BY s.until DESC
$$;
REVOKE EXECUTE ON FUNCTION mercato_consumer_suspensions(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mercato_consumer_suspensions(uuid[]) TO mercato_tenant;

COMMIT;
