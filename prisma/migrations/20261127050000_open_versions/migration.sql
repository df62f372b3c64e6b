-- Versions that wait for their check, of one tenant and of all: few among many that were checked.
CREATE INDEX "model_version_open_idx" ON "model_version" ("tenant_id", "id") WHERE "state" IN ('DRAFT', 'CHECKED');
