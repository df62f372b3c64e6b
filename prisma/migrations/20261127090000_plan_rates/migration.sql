-- What a rate's arrival time is reckoned with is said beside it: under a plan of another rate what was taken counts as so many requests, not as so many seconds.
BEGIN;
SET LOCAL ROLE mercato_owner;

ALTER TABLE "rate_limit" ADD COLUMN "requests_per_minute" INTEGER;
SET LOCAL ROLE mercato_system;
-- The consumer's last plan of the listing that has a rate; without any, the consumer is its publisher, whose rate is 6000.
UPDATE rate_limit r SET requests_per_minute = coalesce(
  (SELECT v.requests_per_minute FROM subscription s JOIN plan_version v ON v.id = s.plan_version_id
    WHERE s.consumer_tenant_id = r.consumer_tenant_id AND s.listing_id = r.listing_id AND v.requests_per_minute IS NOT NULL
    ORDER BY s.id DESC LIMIT 1), 6000);
SET LOCAL ROLE mercato_owner;
-- The default is for processes that do not know the column yet: it errs for the caller.
ALTER TABLE "rate_limit" ALTER COLUMN "requests_per_minute" SET DEFAULT 1;
ALTER TABLE "rate_limit" ALTER COLUMN "requests_per_minute" SET NOT NULL;
ALTER TABLE "rate_limit" ADD CONSTRAINT "rate_limit_rate_check" CHECK ("requests_per_minute" > 0);

COMMIT;
