-- Background work apart from the server: datasets, training runs, optimisations, deployments. One simple query, hence the transaction.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- CreateEnum
CREATE TYPE "work_kind" AS ENUM ('PROFILE', 'TRAIN', 'OPTIMIZE', 'DEPLOY');

-- CreateEnum
CREATE TYPE "work_state" AS ENUM ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED');

-- CreateEnum
CREATE TYPE "dataset_format" AS ENUM ('IDX', 'CSV', 'NPY', 'NPZ', 'NDJSON', 'PNG_ZIP');

-- CreateEnum
CREATE TYPE "optimization_kind" AS ENUM ('GRAPH', 'DYNAMIC_INT8', 'STATIC_INT8', 'FP16');

-- CreateTable
CREATE TABLE "work" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "kind" "work_kind" NOT NULL,
    "state" "work_state" NOT NULL DEFAULT 'QUEUED',
    "process_id" UUID,
    "attempts" INTEGER NOT NULL DEFAULT 0,
    "error" JSONB,
    "compute_micros" BIGINT NOT NULL DEFAULT 0,
    "time_limit_ms" INTEGER NOT NULL,
    "memory_limit_mib" INTEGER NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),
    "started_at" TIMESTAMPTZ(3),
    "ended_at" TIMESTAMPTZ(3),

    CONSTRAINT "work_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "dataset" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "format" "dataset_format" NOT NULL,
    "sha256" TEXT NOT NULL,
    "size_bytes" BIGINT NOT NULL,
    "bad_rows_max" INTEGER NOT NULL,
    "profile" JSONB,

    CONSTRAINT "dataset_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "training_run" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "dataset_id" UUID NOT NULL,
    "test_dataset_id" UUID,
    "model_id" UUID NOT NULL,
    "spec" JSONB NOT NULL,
    "version_id" UUID,

    CONSTRAINT "training_run_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "training_epoch" (
    "run_id" UUID NOT NULL,
    "epoch" INTEGER NOT NULL,
    "tenant_id" UUID NOT NULL,
    "loss" DOUBLE PRECISION NOT NULL,
    "validation_loss" DOUBLE PRECISION,
    "validation_metric" DOUBLE PRECISION,
    "learning_rate" DOUBLE PRECISION NOT NULL,
    "elapsed_ms" DOUBLE PRECISION NOT NULL,

    CONSTRAINT "training_epoch_pkey" PRIMARY KEY ("run_id","epoch")
);

-- CreateTable
CREATE TABLE "evaluation" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "version_id" UUID NOT NULL,
    "data_key" TEXT NOT NULL,
    "figures" JSONB NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "evaluation_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "optimization" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "source_version_id" UUID NOT NULL,
    "kind" "optimization_kind" NOT NULL,
    "run_id" UUID,
    "deployment_id" UUID,
    "max_accuracy_drop" DOUBLE PRECISION NOT NULL,
    "min_speedup" DOUBLE PRECISION NOT NULL,
    "version_id" UUID,
    "outcome" JSONB,

    CONSTRAINT "optimization_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "deployment_rule" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "model_id" UUID NOT NULL,
    "alias" TEXT NOT NULL,
    "optimizations" "optimization_kind"[],
    "min_metric" DOUBLE PRECISION,
    "max_accuracy_drop" DOUBLE PRECISION NOT NULL,
    "min_speedup" DOUBLE PRECISION NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "deployment_rule_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "deployment" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "run_id" UUID NOT NULL,
    "rule_id" UUID NOT NULL,
    "rule" JSONB NOT NULL,
    "version_id" UUID,
    "reasons" TEXT[],

    CONSTRAINT "deployment_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "work_tenant_id_created_at_idx" ON "work"("tenant_id", "created_at");

-- CreateIndex
CREATE INDEX "dataset_tenant_id_id_idx" ON "dataset"("tenant_id", "id");

-- CreateIndex
CREATE INDEX "training_run_tenant_id_id_idx" ON "training_run"("tenant_id", "id");

-- CreateIndex
CREATE INDEX "training_run_dataset_id_idx" ON "training_run"("dataset_id");

-- CreateIndex
CREATE INDEX "training_run_test_dataset_id_idx" ON "training_run"("test_dataset_id");

-- CreateIndex
CREATE INDEX "training_run_model_id_idx" ON "training_run"("model_id");

-- CreateIndex
CREATE INDEX "training_run_version_id_idx" ON "training_run"("version_id");

-- CreateIndex
CREATE INDEX "training_epoch_tenant_id_idx" ON "training_epoch"("tenant_id");

-- CreateIndex
CREATE INDEX "evaluation_tenant_id_idx" ON "evaluation"("tenant_id");

-- CreateIndex
CREATE UNIQUE INDEX "evaluation_version_id_data_key_key" ON "evaluation"("version_id", "data_key");

-- CreateIndex
CREATE INDEX "optimization_tenant_id_id_idx" ON "optimization"("tenant_id", "id");

-- CreateIndex
CREATE INDEX "optimization_source_version_id_idx" ON "optimization"("source_version_id");

-- CreateIndex
CREATE INDEX "optimization_version_id_idx" ON "optimization"("version_id");

-- CreateIndex
CREATE INDEX "optimization_deployment_id_idx" ON "optimization"("deployment_id");

-- CreateIndex
CREATE INDEX "optimization_run_id_idx" ON "optimization"("run_id");

-- CreateIndex
CREATE INDEX "deployment_rule_tenant_id_id_idx" ON "deployment_rule"("tenant_id", "id");

-- CreateIndex
CREATE UNIQUE INDEX "deployment_rule_model_id_alias_key" ON "deployment_rule"("model_id", "alias");

-- CreateIndex
CREATE INDEX "deployment_tenant_id_id_idx" ON "deployment"("tenant_id", "id");

-- CreateIndex
CREATE INDEX "deployment_run_id_idx" ON "deployment"("run_id");

-- CreateIndex
CREATE INDEX "deployment_version_id_idx" ON "deployment"("version_id");

-- AddForeignKey
ALTER TABLE "dataset" ADD CONSTRAINT "dataset_id_fkey" FOREIGN KEY ("id") REFERENCES "work"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "training_run" ADD CONSTRAINT "training_run_id_fkey" FOREIGN KEY ("id") REFERENCES "work"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "training_run" ADD CONSTRAINT "training_run_dataset_id_fkey" FOREIGN KEY ("dataset_id") REFERENCES "dataset"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "training_run" ADD CONSTRAINT "training_run_test_dataset_id_fkey" FOREIGN KEY ("test_dataset_id") REFERENCES "dataset"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "training_run" ADD CONSTRAINT "training_run_model_id_fkey" FOREIGN KEY ("model_id") REFERENCES "model"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "training_run" ADD CONSTRAINT "training_run_version_id_fkey" FOREIGN KEY ("version_id") REFERENCES "model_version"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "training_epoch" ADD CONSTRAINT "training_epoch_run_id_fkey" FOREIGN KEY ("run_id") REFERENCES "training_run"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "evaluation" ADD CONSTRAINT "evaluation_version_id_fkey" FOREIGN KEY ("version_id") REFERENCES "model_version"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "optimization" ADD CONSTRAINT "optimization_id_fkey" FOREIGN KEY ("id") REFERENCES "work"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "optimization" ADD CONSTRAINT "optimization_source_version_id_fkey" FOREIGN KEY ("source_version_id") REFERENCES "model_version"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "optimization" ADD CONSTRAINT "optimization_version_id_fkey" FOREIGN KEY ("version_id") REFERENCES "model_version"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "optimization" ADD CONSTRAINT "optimization_run_id_fkey" FOREIGN KEY ("run_id") REFERENCES "training_run"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "optimization" ADD CONSTRAINT "optimization_deployment_id_fkey" FOREIGN KEY ("deployment_id") REFERENCES "deployment"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "deployment_rule" ADD CONSTRAINT "deployment_rule_model_id_fkey" FOREIGN KEY ("model_id") REFERENCES "model"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "deployment" ADD CONSTRAINT "deployment_id_fkey" FOREIGN KEY ("id") REFERENCES "work"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "deployment" ADD CONSTRAINT "deployment_run_id_fkey" FOREIGN KEY ("run_id") REFERENCES "training_run"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "deployment" ADD CONSTRAINT "deployment_version_id_fkey" FOREIGN KEY ("version_id") REFERENCES "model_version"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- ─── What Prisma's schema cannot say ───

ALTER TABLE "work" ADD CONSTRAINT "work_bounds_check" CHECK (
  "attempts" >= 0 AND "compute_micros" >= 0 AND "time_limit_ms" > 0 AND "memory_limit_mib" > 0);
ALTER TABLE "work" ADD CONSTRAINT "work_state_check" CHECK (
  ("state" = 'RUNNING') = ("process_id" IS NOT NULL) AND ("state" = 'FAILED') = ("error" IS NOT NULL)
  AND ("state" IN ('QUEUED', 'RUNNING')) = ("ended_at" IS NULL));
ALTER TABLE "dataset" ADD CONSTRAINT "dataset_sha256_check" CHECK ("sha256" ~ '^[0-9a-f]{64}$');
ALTER TABLE "dataset" ADD CONSTRAINT "dataset_bounds_check" CHECK ("size_bytes" > 0 AND "bad_rows_max" >= 0);
ALTER TABLE "training_epoch" ADD CONSTRAINT "training_epoch_bounds_check" CHECK ("epoch" > 0 AND "elapsed_ms" >= 0);
ALTER TABLE "optimization" ADD CONSTRAINT "optimization_rule_check" CHECK ("max_accuracy_drop" >= 0 AND "min_speedup" >= 0);
ALTER TABLE "deployment_rule" ADD CONSTRAINT "deployment_rule_rule_check" CHECK ("max_accuracy_drop" >= 0 AND "min_speedup" >= 0);

-- Works that wait for a process or are held by one.
CREATE INDEX "work_open_idx" ON "work" ("created_at") WHERE "state" IN ('QUEUED', 'RUNNING');

CREATE TRIGGER "training_epoch_append_only" BEFORE UPDATE OR DELETE ON "training_epoch" FOR EACH ROW EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "training_epoch_no_truncate" BEFORE TRUNCATE ON "training_epoch" FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "evaluation_append_only" BEFORE UPDATE OR DELETE ON "evaluation" FOR EACH ROW EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "evaluation_no_truncate" BEFORE TRUNCATE ON "evaluation" FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change();

-- Work ends once, and what it cost only grows.
CREATE FUNCTION mercato_keep_work() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD."state" NOT IN ('QUEUED', 'RUNNING') OR NEW."compute_micros" < OLD."compute_micros"
     OR (NEW."id", NEW."tenant_id", NEW."kind", NEW."created_at") IS DISTINCT FROM (OLD."id", OLD."tenant_id", OLD."kind", OLD."created_at") THEN
    RAISE EXCEPTION 'work % has ended', OLD."id" USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER "work_ends_once" BEFORE UPDATE ON "work" FOR EACH ROW EXECUTE FUNCTION mercato_keep_work();

-- ─── Walls ───

ALTER TABLE "work" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "work" FORCE ROW LEVEL SECURITY;
ALTER TABLE "dataset" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "dataset" FORCE ROW LEVEL SECURITY;
ALTER TABLE "training_run" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "training_run" FORCE ROW LEVEL SECURITY;
ALTER TABLE "training_epoch" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "training_epoch" FORCE ROW LEVEL SECURITY;
ALTER TABLE "evaluation" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "evaluation" FORCE ROW LEVEL SECURITY;
ALTER TABLE "optimization" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "optimization" FORCE ROW LEVEL SECURITY;
ALTER TABLE "deployment_rule" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "deployment_rule" FORCE ROW LEVEL SECURITY;
ALTER TABLE "deployment" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "deployment" FORCE ROW LEVEL SECURITY;

GRANT SELECT, UPDATE ON "work" TO mercato_system;
CREATE POLICY "system" ON "work" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT ON "optimization" TO mercato_system;
CREATE POLICY "system" ON "optimization" FOR SELECT TO mercato_system USING (true);

GRANT SELECT, INSERT, UPDATE ON "work", "dataset", "training_run", "optimization", "deployment" TO mercato_tenant;
GRANT SELECT, INSERT ON "training_epoch", "evaluation" TO mercato_tenant;
GRANT SELECT, INSERT, DELETE ON "deployment_rule" TO mercato_tenant;
CREATE POLICY "own" ON "work" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "dataset" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "training_run" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "training_epoch" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "evaluation" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "optimization" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "deployment_rule" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "deployment" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());

-- Honest grounds for choosing: what a published version was found to do, and what it was made from, is seen with it.
CREATE POLICY "public" ON "evaluation" FOR SELECT TO mercato_tenant USING (EXISTS (
  SELECT FROM "model_version" v WHERE v."id" = "evaluation"."version_id" AND v."published_at" IS NOT NULL));
CREATE POLICY "public" ON "optimization" FOR SELECT TO mercato_tenant USING (EXISTS (
  SELECT FROM "model_version" v WHERE v."id" = "optimization"."version_id" AND v."published_at" IS NOT NULL));

-- A job holds its queue's place while the work is done: longer than any time limit of work.
SELECT pgboss.create_queue('profile', '{"policy": "standard", "retryLimit": 0, "expireInSeconds": 86000}'::jsonb);
SELECT pgboss.create_queue('train', '{"policy": "standard", "retryLimit": 0, "expireInSeconds": 86000}'::jsonb);
SELECT pgboss.create_queue('optimize', '{"policy": "standard", "retryLimit": 0, "expireInSeconds": 86000}'::jsonb);
SELECT pgboss.create_queue('deploy', '{"policy": "standard", "retryLimit": 0, "expireInSeconds": 86000}'::jsonb);
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgboss TO mercato_system;

COMMIT;
