-- Names that an owner gives to versions: `live`, which "tenant/name" calls, was a column of listing. One simple query, hence the transaction.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- CreateEnum
CREATE TYPE "alias_move_kind" AS ENUM ('PROMOTE', 'ROLLBACK', 'DELETE');

-- AlterTable
ALTER TABLE "plan_version" ADD COLUMN     "alias" TEXT;

-- CreateTable
CREATE TABLE "model_alias" (
    "model_id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "tenant_id" UUID NOT NULL,
    "version_id" UUID NOT NULL,
    "moved_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "model_alias_pkey" PRIMARY KEY ("model_id","name")
);

-- CreateTable
CREATE TABLE "alias_move" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "model_id" UUID NOT NULL,
    "alias" TEXT NOT NULL,
    "kind" "alias_move_kind" NOT NULL,
    "from_version_id" UUID,
    "to_version_id" UUID,
    "undoes_id" UUID,
    "by_user_id" UUID,
    "by_api_key_id" UUID,
    "by_rule_id" UUID,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "alias_move_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "model_alias_tenant_id_idx" ON "model_alias"("tenant_id");

-- CreateIndex
CREATE INDEX "model_alias_version_id_idx" ON "model_alias"("version_id");

-- CreateIndex
CREATE UNIQUE INDEX "alias_move_undoes_id_key" ON "alias_move"("undoes_id");

-- CreateIndex
CREATE INDEX "alias_move_tenant_id_idx" ON "alias_move"("tenant_id");

-- CreateIndex
CREATE INDEX "alias_move_model_id_alias_id_idx" ON "alias_move"("model_id", "alias", "id");

-- AddForeignKey
ALTER TABLE "model_alias" ADD CONSTRAINT "model_alias_model_id_fkey" FOREIGN KEY ("model_id") REFERENCES "model"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "model_alias" ADD CONSTRAINT "model_alias_version_id_fkey" FOREIGN KEY ("version_id") REFERENCES "model_version"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- ─── What Prisma's schema cannot say ───

ALTER TABLE "model_alias" ADD CONSTRAINT "model_alias_name_check" CHECK ("name" ~ '^[a-z0-9](-?[a-z0-9]){0,38}$' AND "name" !~ '^[0-9]+$');
ALTER TABLE "alias_move" ADD CONSTRAINT "alias_move_kind_check" CHECK (
  ("kind" = 'ROLLBACK') = ("undoes_id" IS NOT NULL) AND ("kind" = 'DELETE') = ("to_version_id" IS NULL));
CREATE TRIGGER "alias_move_append_only" BEFORE UPDATE OR DELETE ON "alias_move" FOR EACH ROW EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "alias_move_no_truncate" BEFORE TRUNCATE ON "alias_move" FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change();

-- What was on offer stays so. Forced row-level security would hide the rows from their owner.
ALTER TABLE "listing" NO FORCE ROW LEVEL SECURITY;
INSERT INTO "model_alias" ("model_id", "name", "tenant_id", "version_id", "moved_at")
  SELECT "model_id", 'live', "publisher_tenant_id", "live_version_id", coalesce("published_at", "created_at") FROM "listing"
  WHERE "live_version_id" IS NOT NULL;
ALTER TABLE "listing" FORCE ROW LEVEL SECURITY;
ALTER TABLE "listing" DROP CONSTRAINT "listing_published_check";
ALTER TABLE "listing" DROP CONSTRAINT "listing_live_version_id_fkey";
ALTER TABLE "listing" DROP COLUMN "live_version_id";

-- ─── Walls ───

ALTER TABLE "model_alias" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "model_alias" FORCE ROW LEVEL SECURITY;
ALTER TABLE "alias_move" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "alias_move" FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON "model_alias" TO mercato_tenant;
GRANT SELECT, INSERT ON "alias_move" TO mercato_tenant;
CREATE POLICY "own" ON "model_alias" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "alias_move" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
CREATE POLICY "public" ON "model_alias" FOR SELECT TO mercato_tenant USING (EXISTS (
  SELECT FROM "model_version" v WHERE v."id" = "model_alias"."version_id" AND v."published_at" IS NOT NULL));

COMMIT;
