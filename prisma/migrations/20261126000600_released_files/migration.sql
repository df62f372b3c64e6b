BEGIN;
SET LOCAL ROLE mercato_owner;

-- A file of the store is deleted where no row refers to it any more: of any tenant, since equal files are one.
CREATE INDEX "upload_sha256_idx" ON "upload"("sha256");
CREATE INDEX "model_version_sha256_idx" ON "model_version"("sha256");
CREATE INDEX "dataset_sha256_idx" ON "dataset"("sha256");

GRANT SELECT ("sha256") ON "dataset" TO mercato_system;
CREATE POLICY "system" ON "dataset" FOR SELECT TO mercato_system USING (true);

COMMIT;
