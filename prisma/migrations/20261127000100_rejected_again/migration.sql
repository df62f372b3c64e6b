-- Bytes that were rejected may come again: with other samples or bounds, or after a fault of the host.
BEGIN;
SET LOCAL ROLE mercato_owner;

DROP INDEX "model_version_model_id_sha256_key";
CREATE UNIQUE INDEX "model_version_model_id_sha256_key" ON "model_version" ("model_id", "sha256") WHERE "state" <> 'REJECTED';

COMMIT;
