-- What a publisher learns of the jobs that check its versions: not the jobs, which are of all tenants, but what this function makes of its own.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- A job that was tried often enough is followed by another: what all that are left of a version come to. `fault`: what the newest that says something says.
CREATE FUNCTION mercato_checks(version_ids uuid[])
  RETURNS TABLE (version_id uuid, running boolean, failures int, fault jsonb, next_attempt_at timestamptz)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT v.id, bool_or(j.state = 'active'), sum(j.retry_count + (j.state IN ('retry', 'failed'))::int)::int,
         (array_agg(j.output ORDER BY j.created_on DESC) FILTER (WHERE j.output IS NOT NULL))[1], max(j.start_after) FILTER (WHERE j.state = 'retry')
    FROM unnest(version_ids) v (id)
    JOIN pgboss.job j ON j.name = 'check-version' AND j.state IN ('created', 'retry', 'active', 'failed')
     AND j.data->>'versionId' = v.id::text AND j.data->>'tenantId' = mercato_tenant_id()::text
   GROUP BY v.id
$$;
REVOKE EXECUTE ON FUNCTION mercato_checks(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mercato_checks(uuid[]) TO mercato_tenant;

COMMIT;
