-- Of a burst, and of nothing else, time takes back by itself what was granted: what a lease returns must be told from that.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- AlterTable
ALTER TABLE "lease" ADD COLUMN "granted_at" TIMESTAMPTZ(6) NOT NULL DEFAULT mercato_now(),
ADD COLUMN "granted_units" BIGINT NOT NULL DEFAULT 0;

COMMIT;
