-- Idempotency keys of mutations that make a secret: what a key made once, it names for ever.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- CreateTable
CREATE TABLE "mutation_key" (
    "tenant_id" UUID NOT NULL,
    "mutation" TEXT NOT NULL,
    "key" TEXT NOT NULL,
    "digest" BYTEA NOT NULL,
    "object_id" UUID NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "mutation_key_pkey" PRIMARY KEY ("tenant_id","mutation","key")
);
ALTER TABLE "mutation_key" ADD CONSTRAINT "mutation_key_digest_check" CHECK (octet_length("digest") = 32);
CREATE TRIGGER "mutation_key_append_only" BEFORE UPDATE OR DELETE ON "mutation_key" FOR EACH ROW EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "mutation_key_no_truncate" BEFORE TRUNCATE ON "mutation_key" FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change();

ALTER TABLE "mutation_key" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "mutation_key" FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON "mutation_key" TO mercato_tenant;
CREATE POLICY "own" ON "mutation_key" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());

COMMIT;
