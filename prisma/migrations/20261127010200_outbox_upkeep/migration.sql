-- The outbox for whoever delivers it: what is undelivered by age, and rid of what is old.
BEGIN;
SET LOCAL ROLE mercato_owner;

CREATE INDEX "outbox_undelivered_idx" ON "outbox" ("created_at", "id") WHERE "delivered_at" IS NULL;
GRANT DELETE ON "outbox" TO mercato_system;

COMMIT;
