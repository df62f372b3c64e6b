-- Versions that stay loaded, and versions that are not called because their runs end their runners. One simple query, hence the transaction.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- CreateEnum
CREATE TYPE "strike_kind" AS ENUM ('CRASH', 'OVERRUN');

-- AlterTable
ALTER TABLE "model_version" ADD COLUMN     "pinned" BOOLEAN NOT NULL DEFAULT false,
ADD COLUMN     "contents" JSONB,
ADD COLUMN     "profile" JSONB,
ADD COLUMN     "sample_count" INTEGER NOT NULL DEFAULT 0;

-- CreateTable
CREATE TABLE "strike" (
    "id" UUID NOT NULL,
    "version_id" UUID NOT NULL,
    "publisher_tenant_id" UUID NOT NULL,
    "consumer_tenant_id" UUID NOT NULL,
    "kind" "strike_kind" NOT NULL,
    "runner" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "strike_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "suspension" (
    "id" UUID NOT NULL,
    "version_id" UUID NOT NULL,
    "publisher_tenant_id" UUID NOT NULL,
    "consumer_tenant_id" UUID,
    "reason" TEXT NOT NULL,
    "failed_probes" INTEGER NOT NULL DEFAULT 0,
    "since" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),
    "until" TIMESTAMPTZ(3) NOT NULL,
    "probing_until" TIMESTAMPTZ(3),
    "ended_at" TIMESTAMPTZ(3),

    CONSTRAINT "suspension_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "version_samples" (
    "version_id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "samples" JSONB NOT NULL,

    CONSTRAINT "version_samples_pkey" PRIMARY KEY ("version_id")
);

-- CreateIndex
CREATE UNIQUE INDEX "strike_runner_key" ON "strike"("runner");

-- CreateIndex
CREATE INDEX "strike_version_id_created_at_idx" ON "strike"("version_id", "created_at");

-- CreateIndex
CREATE INDEX "suspension_version_id_idx" ON "suspension"("version_id");

-- AddForeignKey
ALTER TABLE "version_samples" ADD CONSTRAINT "version_samples_version_id_fkey" FOREIGN KEY ("version_id") REFERENCES "model_version"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- ─── What Prisma's schema cannot say ───

-- One open suspension per version and tenant, and one for everybody.
CREATE UNIQUE INDEX "suspension_open_key" ON "suspension" ("version_id", coalesce("consumer_tenant_id", '00000000-0000-0000-0000-000000000000'))
  WHERE "ended_at" IS NULL;
ALTER TABLE "suspension" ADD CONSTRAINT "suspension_times_check" CHECK ("until" > "since" AND "failed_probes" >= 0);
CREATE TRIGGER "strike_append_only" BEFORE UPDATE OR DELETE ON "strike" FOR EACH ROW EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "version_samples_append_only" BEFORE UPDATE OR DELETE ON "version_samples" FOR EACH ROW EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "version_samples_no_truncate" BEFORE TRUNCATE ON "version_samples" FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "strike_no_truncate" BEFORE TRUNCATE ON "strike" FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change();

-- ─── Walls ───

ALTER TABLE "strike" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "strike" FORCE ROW LEVEL SECURITY;
ALTER TABLE "suspension" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "suspension" FORCE ROW LEVEL SECURITY;
ALTER TABLE "version_samples" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "version_samples" FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON "version_samples" TO mercato_tenant;
CREATE POLICY "own" ON "version_samples" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
GRANT SELECT, INSERT ON "strike" TO mercato_system;
GRANT SELECT, INSERT, UPDATE ON "suspension" TO mercato_system;
GRANT SELECT ON "suspension" TO mercato_tenant;
CREATE POLICY "system" ON "strike" TO mercato_system USING (true) WITH CHECK (true);
CREATE POLICY "system" ON "suspension" TO mercato_system USING (true) WITH CHECK (true);
-- A tenant's own; of everybody's, whoever may see the version. Nobody learns who else is suspended.
CREATE POLICY "own" ON "suspension" FOR SELECT TO mercato_tenant USING ("consumer_tenant_id" = mercato_tenant_id());
CREATE POLICY "public" ON "suspension" FOR SELECT TO mercato_tenant USING ("consumer_tenant_id" IS NULL AND (
  "publisher_tenant_id" = mercato_tenant_id()
  OR EXISTS (SELECT FROM "model_version" v WHERE v."id" = "suspension"."version_id" AND v."published_at" IS NOT NULL)));

COMMIT;
