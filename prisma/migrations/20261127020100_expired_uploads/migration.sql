-- Uploads that nothing was made of end: their files go.
BEGIN;
SET LOCAL ROLE mercato_owner;

ALTER TYPE "upload_state" ADD VALUE 'EXPIRED';
-- What a sweep looks for; those that were used are most, and stay.
CREATE INDEX "upload_unused_idx" ON "upload" ("expires_at") WHERE "state" IN ('OPEN', 'COMPLETE');

COMMIT;
