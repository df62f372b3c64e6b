BEGIN;
SET LOCAL ROLE mercato_owner;

-- What a group is planned like depends on nothing in it. Left to itself Postgres plans parts of it again for each: 0.1 to 0.25 ms of 1 to 1.7 (2 cores, November 2026).
ALTER FUNCTION mercato_settle(jsonb, text, int, int) SET plan_cache_mode = 'force_generic_plan';
ALTER FUNCTION mercato_count_limits(mercato_call[], uuid[]) SET plan_cache_mode = 'force_generic_plan';

COMMIT;
