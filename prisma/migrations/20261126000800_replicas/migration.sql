-- Bounds of a version's runners on each host.
BEGIN;
SET LOCAL ROLE mercato_owner;

ALTER TABLE "model_version" ADD COLUMN "min_replicas" INTEGER NOT NULL DEFAULT 0,
ADD COLUMN "max_replicas" INTEGER;

ALTER TABLE "model_version" ADD CONSTRAINT "model_version_replicas_check"
  CHECK ("min_replicas" BETWEEN 0 AND 64 AND ("max_replicas" IS NULL OR ("max_replicas" BETWEEN 1 AND 64 AND "max_replicas" >= "min_replicas")));

COMMIT;
