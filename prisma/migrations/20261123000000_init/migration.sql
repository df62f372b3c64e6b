-- Everything below belongs to mercato_owner. Prisma sends this file as one simple query, hence the explicit transaction.
BEGIN;

-- Roles are cluster-wide: the lock keeps databases of one cluster that migrate at once from racing.
DO $$
DECLARE
  name text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('mercato.roles'));
  FOREACH name IN ARRAY ARRAY['mercato_owner', 'mercato_tenant', 'mercato_system'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB', name);
    END IF;
    IF NOT pg_has_role(current_user, name, 'MEMBER') THEN
      EXECUTE format('GRANT %I TO %I', name, current_user);
    END IF;
  END LOOP;
  EXECUTE format('GRANT CREATE ON DATABASE %I TO mercato_owner', current_database());
END
$$;
GRANT CREATE, USAGE ON SCHEMA public TO mercato_owner;
GRANT USAGE ON SCHEMA public TO mercato_tenant, mercato_system;

SET LOCAL ROLE mercato_owner;

-- The one clock of windows, expiries and periods; tests replace its body.
CREATE FUNCTION mercato_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp()';

-- The UTC calendar month of an instant.
CREATE FUNCTION mercato_period(instant timestamptz) RETURNS text LANGUAGE sql STABLE
  AS $$ SELECT to_char(instant AT TIME ZONE 'UTC', 'YYYY-MM') $$;

-- The tenant that the transaction acts for; null: nobody, who sees only the public catalogue.
CREATE FUNCTION mercato_tenant_id() RETURNS uuid LANGUAGE sql STABLE
  AS $$ SELECT nullif(current_setting('mercato.tenant_id', true), '')::uuid $$;

-- CreateEnum
CREATE TYPE "role" AS ENUM ('OWNER', 'ADMIN', 'DEVELOPER', 'BILLING', 'VIEWER');

-- CreateEnum
CREATE TYPE "upload_state" AS ENUM ('OPEN', 'COMPLETE', 'USED');

-- CreateEnum
CREATE TYPE "model_version_state" AS ENUM ('DRAFT', 'CHECKED', 'READY', 'REJECTED');

-- CreateEnum
CREATE TYPE "listing_state" AS ENUM ('DRAFT', 'PUBLISHED', 'WITHDRAWN');

-- CreateEnum
CREATE TYPE "subscription_state" AS ENUM ('ACTIVE', 'CANCELLED');

-- CreateEnum
CREATE TYPE "account_kind" AS ENUM ('WALLET', 'PUBLISHER_PAYABLE', 'PLATFORM_REVENUE', 'FUNDING');

-- CreateEnum
CREATE TYPE "transfer_kind" AS ENUM ('CREDIT', 'CHARGE', 'COMMISSION');

-- CreateTable
CREATE TABLE "server_process" (
    "id" UUID NOT NULL,
    "confirmed_seq" BIGINT NOT NULL,
    "heartbeat_at" TIMESTAMPTZ(3) NOT NULL,
    "started_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "server_process_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "invalidation" (
    "seq" BIGSERIAL NOT NULL,
    "kind" TEXT NOT NULL,
    "subject_id" UUID NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "invalidation_pkey" PRIMARY KEY ("seq")
);

-- CreateTable
CREATE TABLE "tenant" (
    "id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "display_name" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "tenant_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "app_user" (
    "id" UUID NOT NULL,
    "email" TEXT NOT NULL,
    "password_hash" TEXT NOT NULL,
    "is_operator" BOOLEAN NOT NULL DEFAULT false,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "app_user_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "member" (
    "tenant_id" UUID NOT NULL,
    "user_id" UUID NOT NULL,
    "role" "role" NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "member_pkey" PRIMARY KEY ("tenant_id","user_id")
);

-- CreateTable
CREATE TABLE "session" (
    "id" UUID NOT NULL,
    "user_id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "revoked_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "session_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "refresh_token" (
    "hash" BYTEA NOT NULL,
    "session_id" UUID NOT NULL,
    "used_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "refresh_token_pkey" PRIMARY KEY ("hash")
);

-- CreateTable
CREATE TABLE "api_key" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "hash" BYTEA NOT NULL,
    "prefix" TEXT NOT NULL,
    "scopes" TEXT[],
    "created_by_user_id" UUID,
    "expires_at" TIMESTAMPTZ(3),
    "revoked_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "api_key_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "api_key_use" (
    "api_key_id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "last_used_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "api_key_use_pkey" PRIMARY KEY ("api_key_id")
);

-- CreateTable
CREATE TABLE "upload" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "token_hash" BYTEA NOT NULL,
    "state" "upload_state" NOT NULL DEFAULT 'OPEN',
    "size_bytes" BIGINT,
    "sha256" TEXT,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "upload_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "model" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "model_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "model_version" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "model_id" UUID NOT NULL,
    "number" INTEGER NOT NULL,
    "sha256" TEXT NOT NULL,
    "size_bytes" BIGINT NOT NULL,
    "state" "model_version_state" NOT NULL DEFAULT 'DRAFT',
    "rejection" JSONB,
    "signature" JSONB,
    "joinable" BOOLEAN NOT NULL DEFAULT false,
    "batch_finding" TEXT,
    "trusted" BOOLEAN NOT NULL DEFAULT false,
    "max_batch_rows" INTEGER NOT NULL DEFAULT 64,
    "run_limit_ms" INTEGER NOT NULL DEFAULT 10000,
    "deadline_ms" INTEGER NOT NULL DEFAULT 10000,
    "threads" INTEGER NOT NULL DEFAULT 1,
    "published_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "model_version_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "listing" (
    "id" UUID NOT NULL,
    "publisher_tenant_id" UUID NOT NULL,
    "model_id" UUID NOT NULL,
    "handle" TEXT NOT NULL,
    "state" "listing_state" NOT NULL DEFAULT 'DRAFT',
    "summary" TEXT NOT NULL DEFAULT '',
    "tags" TEXT[] DEFAULT ARRAY[]::TEXT[],
    "search" tsvector,
    "live_version_id" UUID,
    "published_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "listing_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "plan" (
    "id" UUID NOT NULL,
    "publisher_tenant_id" UUID NOT NULL,
    "listing_id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "retired" BOOLEAN NOT NULL DEFAULT false,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "plan_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "plan_version" (
    "id" UUID NOT NULL,
    "publisher_tenant_id" UUID NOT NULL,
    "plan_id" UUID NOT NULL,
    "number" INTEGER NOT NULL,
    "currency" TEXT NOT NULL,
    "unit_price_nanos" BIGINT NOT NULL,
    "free_units" BIGINT NOT NULL,
    "quota_units" BIGINT,
    "requests_per_minute" INTEGER,
    "burst" INTEGER,
    "priority" INTEGER NOT NULL DEFAULT 0,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "plan_version_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "subscription" (
    "id" UUID NOT NULL,
    "consumer_tenant_id" UUID NOT NULL,
    "publisher_tenant_id" UUID NOT NULL,
    "listing_id" UUID NOT NULL,
    "plan_id" UUID NOT NULL,
    "plan_version_id" UUID NOT NULL,
    "state" "subscription_state" NOT NULL DEFAULT 'ACTIVE',
    "cancelled_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "subscription_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "usage_counter" (
    "consumer_tenant_id" UUID NOT NULL,
    "listing_id" UUID NOT NULL,
    "period" TEXT NOT NULL,
    "publisher_tenant_id" UUID NOT NULL,
    "used_units" BIGINT NOT NULL DEFAULT 0,
    "leased_units" BIGINT NOT NULL DEFAULT 0,
    "plan_version_id" UUID,
    "quota_units" BIGINT,

    CONSTRAINT "usage_counter_pkey" PRIMARY KEY ("consumer_tenant_id","listing_id","period")
);

-- CreateTable
CREATE TABLE "lease" (
    "id" UUID NOT NULL,
    "process_id" UUID NOT NULL,
    "consumer_tenant_id" UUID NOT NULL,
    "listing_id" UUID NOT NULL,
    "period" TEXT NOT NULL,
    "units" BIGINT NOT NULL,
    "draining" BOOLEAN NOT NULL DEFAULT false,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "lease_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "rate_limit" (
    "consumer_tenant_id" UUID NOT NULL,
    "listing_id" UUID NOT NULL,
    "arrival_at" TIMESTAMPTZ(6) NOT NULL,

    CONSTRAINT "rate_limit_pkey" PRIMARY KEY ("consumer_tenant_id","listing_id")
);

-- CreateTable
CREATE TABLE "usage_record" (
    "period" TEXT NOT NULL,
    "id" UUID NOT NULL,
    "consumer_tenant_id" UUID NOT NULL,
    "publisher_tenant_id" UUID NOT NULL,
    "listing_id" UUID NOT NULL,
    "model_id" UUID NOT NULL,
    "model_version_id" UUID NOT NULL,
    "subscription_id" UUID,
    "plan_version_id" UUID,
    "api_key_id" UUID,
    "user_id" UUID,
    "units" BIGINT NOT NULL,
    "rows" BIGINT NOT NULL,
    "runs" INTEGER NOT NULL,
    "compute_micros" BIGINT NOT NULL,
    "bytes_in" BIGINT NOT NULL,
    "bytes_out" BIGINT NOT NULL,
    "amount_nanos" BIGINT NOT NULL,
    "currency" TEXT NOT NULL,
    "transfer_id" UUID,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "usage_record_pkey" PRIMARY KEY ("period","id")
) PARTITION BY LIST ("period");

-- CreateTable
CREATE TABLE "account" (
    "id" UUID NOT NULL,
    "kind" "account_kind" NOT NULL,
    "tenant_id" UUID,
    "currency" TEXT NOT NULL,
    "balance_nanos" DECIMAL(38,0) NOT NULL DEFAULT 0,
    "held_nanos" DECIMAL(38,0) NOT NULL DEFAULT 0,
    "credit_limit_nanos" DECIMAL(38,0) NOT NULL DEFAULT 0,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "account_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "transfer" (
    "id" UUID NOT NULL,
    "batch_id" UUID NOT NULL,
    "kind" "transfer_kind" NOT NULL,
    "debit_account_id" UUID NOT NULL,
    "credit_account_id" UUID NOT NULL,
    "amount_nanos" BIGINT NOT NULL,
    "currency" TEXT NOT NULL,
    "period" TEXT NOT NULL,
    "consumer_tenant_id" UUID,
    "publisher_tenant_id" UUID,
    "subscription_id" UUID,
    "note" TEXT,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "transfer_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "subscription_charge" (
    "subscription_id" UUID NOT NULL,
    "period" TEXT NOT NULL,
    "consumer_tenant_id" UUID NOT NULL,
    "publisher_tenant_id" UUID NOT NULL,
    "currency" TEXT NOT NULL,
    "commission_bps" INTEGER NOT NULL,
    "amount_nanos" DECIMAL(38,0) NOT NULL DEFAULT 0,
    "commission_nanos" DECIMAL(38,0) NOT NULL DEFAULT 0,

    CONSTRAINT "subscription_charge_pkey" PRIMARY KEY ("subscription_id","period")
);

-- CreateTable
CREATE TABLE "idempotency_key" (
    "tenant_id" UUID NOT NULL,
    "key" TEXT NOT NULL,
    "digest" BYTEA NOT NULL,
    "record_id" UUID NOT NULL,
    "period" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "idempotency_key_pkey" PRIMARY KEY ("tenant_id","key")
);

-- CreateTable
CREATE TABLE "replay" (
    "record_id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "answer" BYTEA,
    "store_key" TEXT,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "replay_pkey" PRIMARY KEY ("record_id")
);

-- CreateIndex
CREATE INDEX "invalidation_created_at_idx" ON "invalidation"("created_at");

-- CreateIndex
CREATE UNIQUE INDEX "tenant_name_key" ON "tenant"("name");

-- CreateIndex
CREATE UNIQUE INDEX "app_user_email_key" ON "app_user"("email");

-- CreateIndex
CREATE INDEX "member_user_id_idx" ON "member"("user_id");

-- CreateIndex
CREATE INDEX "session_user_id_idx" ON "session"("user_id");

-- CreateIndex
CREATE INDEX "refresh_token_session_id_idx" ON "refresh_token"("session_id");

-- CreateIndex
CREATE UNIQUE INDEX "api_key_hash_key" ON "api_key"("hash");

-- CreateIndex
CREATE INDEX "api_key_tenant_id_id_idx" ON "api_key"("tenant_id", "id");

-- CreateIndex
CREATE UNIQUE INDEX "upload_token_hash_key" ON "upload"("token_hash");

-- CreateIndex
CREATE INDEX "upload_tenant_id_idx" ON "upload"("tenant_id");

-- CreateIndex
CREATE UNIQUE INDEX "model_tenant_id_name_key" ON "model"("tenant_id", "name");

-- CreateIndex
CREATE INDEX "model_version_tenant_id_idx" ON "model_version"("tenant_id");

-- CreateIndex
CREATE UNIQUE INDEX "model_version_model_id_number_key" ON "model_version"("model_id", "number");

-- CreateIndex
CREATE UNIQUE INDEX "model_version_model_id_sha256_key" ON "model_version"("model_id", "sha256");

-- CreateIndex
CREATE UNIQUE INDEX "listing_model_id_key" ON "listing"("model_id");

-- CreateIndex
CREATE UNIQUE INDEX "listing_handle_key" ON "listing"("handle");

-- CreateIndex
CREATE INDEX "listing_publisher_tenant_id_idx" ON "listing"("publisher_tenant_id");

-- CreateIndex
CREATE INDEX "listing_search_idx" ON "listing" USING GIN ("search");

-- CreateIndex
CREATE INDEX "plan_publisher_tenant_id_idx" ON "plan"("publisher_tenant_id");

-- CreateIndex
CREATE UNIQUE INDEX "plan_listing_id_name_key" ON "plan"("listing_id", "name");

-- CreateIndex
CREATE INDEX "plan_version_publisher_tenant_id_idx" ON "plan_version"("publisher_tenant_id");

-- CreateIndex
CREATE UNIQUE INDEX "plan_version_plan_id_number_key" ON "plan_version"("plan_id", "number");

-- CreateIndex
CREATE INDEX "subscription_consumer_tenant_id_id_idx" ON "subscription"("consumer_tenant_id", "id");

-- CreateIndex
CREATE INDEX "subscription_publisher_tenant_id_id_idx" ON "subscription"("publisher_tenant_id", "id");

-- CreateIndex
CREATE INDEX "subscription_listing_id_idx" ON "subscription"("listing_id");

-- CreateIndex
CREATE INDEX "usage_counter_publisher_tenant_id_idx" ON "usage_counter"("publisher_tenant_id");

-- CreateIndex
CREATE INDEX "lease_consumer_tenant_id_listing_id_period_idx" ON "lease"("consumer_tenant_id", "listing_id", "period");

-- CreateIndex
CREATE INDEX "lease_process_id_idx" ON "lease"("process_id");

-- CreateIndex
CREATE INDEX "lease_expires_at_idx" ON "lease"("expires_at");

-- CreateIndex
CREATE INDEX "usage_record_consumer_tenant_id_created_at_idx" ON "usage_record"("consumer_tenant_id", "created_at");

-- CreateIndex
CREATE INDEX "usage_record_publisher_tenant_id_created_at_idx" ON "usage_record"("publisher_tenant_id", "created_at");

-- CreateIndex
CREATE INDEX "usage_record_transfer_id_idx" ON "usage_record"("transfer_id");

-- CreateIndex
CREATE INDEX "transfer_consumer_tenant_id_created_at_id_idx" ON "transfer"("consumer_tenant_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "transfer_publisher_tenant_id_created_at_id_idx" ON "transfer"("publisher_tenant_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "transfer_debit_account_id_idx" ON "transfer"("debit_account_id");

-- CreateIndex
CREATE INDEX "transfer_credit_account_id_idx" ON "transfer"("credit_account_id");

-- CreateIndex
CREATE INDEX "transfer_batch_id_idx" ON "transfer"("batch_id");

-- CreateIndex
CREATE INDEX "subscription_charge_consumer_tenant_id_idx" ON "subscription_charge"("consumer_tenant_id");

-- CreateIndex
CREATE INDEX "subscription_charge_publisher_tenant_id_idx" ON "subscription_charge"("publisher_tenant_id");

-- CreateIndex
CREATE INDEX "replay_expires_at_idx" ON "replay"("expires_at");

-- AddForeignKey
ALTER TABLE "member" ADD CONSTRAINT "member_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenant"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "member" ADD CONSTRAINT "member_user_id_fkey" FOREIGN KEY ("user_id") REFERENCES "app_user"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "session" ADD CONSTRAINT "session_user_id_fkey" FOREIGN KEY ("user_id") REFERENCES "app_user"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "refresh_token" ADD CONSTRAINT "refresh_token_session_id_fkey" FOREIGN KEY ("session_id") REFERENCES "session"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "model" ADD CONSTRAINT "model_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenant"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "model_version" ADD CONSTRAINT "model_version_model_id_fkey" FOREIGN KEY ("model_id") REFERENCES "model"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "listing" ADD CONSTRAINT "listing_model_id_fkey" FOREIGN KEY ("model_id") REFERENCES "model"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "listing" ADD CONSTRAINT "listing_live_version_id_fkey" FOREIGN KEY ("live_version_id") REFERENCES "model_version"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "plan" ADD CONSTRAINT "plan_listing_id_fkey" FOREIGN KEY ("listing_id") REFERENCES "listing"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "plan_version" ADD CONSTRAINT "plan_version_plan_id_fkey" FOREIGN KEY ("plan_id") REFERENCES "plan"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "subscription" ADD CONSTRAINT "subscription_listing_id_fkey" FOREIGN KEY ("listing_id") REFERENCES "listing"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "subscription" ADD CONSTRAINT "subscription_plan_id_fkey" FOREIGN KEY ("plan_id") REFERENCES "plan"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "subscription" ADD CONSTRAINT "subscription_plan_version_id_fkey" FOREIGN KEY ("plan_version_id") REFERENCES "plan_version"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- ─── What Prisma's schema cannot say ───

ALTER TABLE "tenant" ADD CONSTRAINT "tenant_name_check" CHECK ("name" ~ '^[a-z0-9](-?[a-z0-9]){1,38}$');
ALTER TABLE "app_user" ADD CONSTRAINT "app_user_email_check" CHECK ("email" = lower(btrim("email")));
ALTER TABLE "api_key" ADD CONSTRAINT "api_key_hash_check" CHECK (length("hash") = 32);
ALTER TABLE "model" ADD CONSTRAINT "model_name_check" CHECK ("name" ~ '^[a-z0-9]([-._]?[a-z0-9]){0,62}$');
ALTER TABLE "model_version" ADD CONSTRAINT "model_version_sha256_check" CHECK ("sha256" ~ '^[0-9a-f]{64}$');
ALTER TABLE "model_version" ADD CONSTRAINT "model_version_bounds_check" CHECK (
  "number" > 0 AND "size_bytes" > 0 AND "max_batch_rows" > 0 AND "run_limit_ms" > 0 AND "deadline_ms" BETWEEN 1 AND 60000 AND "threads" > 0);
ALTER TABLE "model_version" ADD CONSTRAINT "model_version_ready_check" CHECK ("state" <> 'READY' OR "signature" IS NOT NULL);
ALTER TABLE "model_version" ADD CONSTRAINT "model_version_rejected_check" CHECK (("state" = 'REJECTED') = ("rejection" IS NOT NULL));
ALTER TABLE "listing" ADD CONSTRAINT "listing_published_check" CHECK ("state" <> 'PUBLISHED' OR "live_version_id" IS NOT NULL);
ALTER TABLE "plan_version" ADD CONSTRAINT "plan_version_bounds_check" CHECK (
  "unit_price_nanos" >= 0 AND "free_units" >= 0 AND "quota_units" >= 0 AND "requests_per_minute" > 0 AND "burst" > 0
  AND ("requests_per_minute" IS NULL) = ("burst" IS NULL) AND "priority" BETWEEN 0 AND 9);
ALTER TABLE "usage_counter" ADD CONSTRAINT "usage_counter_bounds_check" CHECK (
  "used_units" >= 0 AND "leased_units" >= 0 AND ("quota_units" IS NULL OR "used_units" + "leased_units" <= "quota_units"));
ALTER TABLE "usage_counter" ADD CONSTRAINT "usage_counter_period_check" CHECK ("period" ~ '^[0-9]{4}-(0[1-9]|1[0-2])$');
ALTER TABLE "lease" ADD CONSTRAINT "lease_bounds_check" CHECK ("units" >= 0);
ALTER TABLE "usage_record" ADD CONSTRAINT "usage_record_bounds_check" CHECK (
  "units" > 0 AND "rows" >= 0 AND "runs" > 0 AND "compute_micros" >= 0 AND "bytes_in" >= 0 AND "bytes_out" >= 0 AND "amount_nanos" >= 0
  AND ("amount_nanos" > 0) = ("transfer_id" IS NOT NULL));
ALTER TABLE "account" ADD CONSTRAINT "account_wallet_check" CHECK (
  "held_nanos" >= 0 AND "credit_limit_nanos" >= 0 AND ("kind" <> 'WALLET' OR "balance_nanos" - "held_nanos" >= - "credit_limit_nanos"));
ALTER TABLE "account" ADD CONSTRAINT "account_tenant_check" CHECK (("kind" IN ('WALLET', 'PUBLISHER_PAYABLE')) = ("tenant_id" IS NOT NULL));
ALTER TABLE "transfer" ADD CONSTRAINT "transfer_bounds_check" CHECK ("amount_nanos" > 0 AND "debit_account_id" <> "credit_account_id");
ALTER TABLE "subscription_charge" ADD CONSTRAINT "subscription_charge_bounds_check" CHECK (
  "commission_bps" BETWEEN 0 AND 10000 AND "amount_nanos" >= 0 AND "commission_nanos" = div("amount_nanos" * "commission_bps", 10000));
ALTER TABLE "idempotency_key" ADD CONSTRAINT "idempotency_key_bounds_check" CHECK (length("key") BETWEEN 1 AND 255 AND length("digest") = 32);
ALTER TABLE "replay" ADD CONSTRAINT "replay_place_check" CHECK (("answer" IS NULL) <> ("store_key" IS NULL));

CREATE UNIQUE INDEX "subscription_active_key" ON "subscription" ("consumer_tenant_id", "listing_id") WHERE "state" = 'ACTIVE';
CREATE UNIQUE INDEX "account_tenant_key" ON "account" ("tenant_id", "kind", "currency") WHERE "tenant_id" IS NOT NULL;
CREATE UNIQUE INDEX "account_platform_key" ON "account" ("kind", "currency") WHERE "tenant_id" IS NULL;

-- ─── Append-only ───

CREATE FUNCTION mercato_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'integrity_constraint_violation';
END
$$;
CREATE TRIGGER "usage_record_append_only" BEFORE UPDATE OR DELETE ON "usage_record" FOR EACH ROW EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "usage_record_no_truncate" BEFORE TRUNCATE ON "usage_record" FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "transfer_append_only" BEFORE UPDATE OR DELETE ON "transfer" FOR EACH ROW EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "transfer_no_truncate" BEFORE TRUNCATE ON "transfer" FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "plan_version_no_truncate" BEFORE TRUNCATE ON "plan_version" FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "idempotency_key_no_truncate" BEFORE TRUNCATE ON "idempotency_key" FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "plan_version_append_only" BEFORE UPDATE OR DELETE ON "plan_version" FOR EACH ROW EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "idempotency_key_append_only" BEFORE UPDATE OR DELETE ON "idempotency_key" FOR EACH ROW EXECUTE FUNCTION mercato_refuse_change();

-- The artefact of a version never changes, and a settled version keeps what the gate found.
CREATE FUNCTION mercato_keep_model_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.id, NEW.tenant_id, NEW.model_id, NEW.number, NEW.sha256, NEW.size_bytes)
     IS DISTINCT FROM (OLD.id, OLD.tenant_id, OLD.model_id, OLD.number, OLD.sha256, OLD.size_bytes)
     OR (OLD.state IN ('READY', 'REJECTED') AND (NEW.state, NEW.signature, NEW.joinable, NEW.rejection)
         IS DISTINCT FROM (OLD.state, OLD.signature, OLD.joinable, OLD.rejection)) THEN
    RAISE EXCEPTION 'model_version % is immutable', OLD.id USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER "model_version_immutable" BEFORE UPDATE ON "model_version" FOR EACH ROW EXECUTE FUNCTION mercato_keep_model_version();

-- ─── Partitions of usage_record: a month each; the server calls this at start and while it runs ───

CREATE FUNCTION mercato_ensure_partitions(months_ahead int) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  month text;
  child text;
BEGIN
  IF months_ahead NOT BETWEEN 0 AND 24 THEN
    RAISE EXCEPTION 'months_ahead must be 0 to 24';
  END IF;
  FOR i IN 0..months_ahead LOOP
    month := mercato_period(mercato_now() + make_interval(months => i));
    child := 'usage_record_' || replace(month, '-', '_');
    IF to_regclass(child) IS NULL THEN
      PERFORM pg_advisory_xact_lock(hashtext('mercato.partitions'));
      -- By a query: to_regclass may still answer from before the lock.
      IF NOT EXISTS (SELECT FROM pg_class WHERE relname = child AND relnamespace = 'public'::regnamespace) THEN
        EXECUTE format('CREATE TABLE %I PARTITION OF usage_record FOR VALUES IN (%L)', child, month);
        -- Nobody reads a partition by its own name: walls without a door.
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', child);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', child);
        -- A statement's trigger on the whole does not speak for its partitions.
        EXECUTE format('CREATE TRIGGER "no_truncate" BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change()', child);
      END IF;
    END IF;
  END LOOP;
END
$$;

-- ─── Walls: row-level security for every table; what no policy allows is refused ───

ALTER TABLE "server_process" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "server_process" FORCE ROW LEVEL SECURITY;
ALTER TABLE "invalidation" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "invalidation" FORCE ROW LEVEL SECURITY;
ALTER TABLE "tenant" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "tenant" FORCE ROW LEVEL SECURITY;
ALTER TABLE "app_user" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "app_user" FORCE ROW LEVEL SECURITY;
ALTER TABLE "member" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "member" FORCE ROW LEVEL SECURITY;
ALTER TABLE "session" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "session" FORCE ROW LEVEL SECURITY;
ALTER TABLE "refresh_token" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "refresh_token" FORCE ROW LEVEL SECURITY;
ALTER TABLE "api_key" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "api_key" FORCE ROW LEVEL SECURITY;
ALTER TABLE "api_key_use" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "api_key_use" FORCE ROW LEVEL SECURITY;
ALTER TABLE "upload" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "upload" FORCE ROW LEVEL SECURITY;
ALTER TABLE "model" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "model" FORCE ROW LEVEL SECURITY;
ALTER TABLE "model_version" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "model_version" FORCE ROW LEVEL SECURITY;
ALTER TABLE "listing" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "listing" FORCE ROW LEVEL SECURITY;
ALTER TABLE "plan" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "plan" FORCE ROW LEVEL SECURITY;
ALTER TABLE "plan_version" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "plan_version" FORCE ROW LEVEL SECURITY;
ALTER TABLE "subscription" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "subscription" FORCE ROW LEVEL SECURITY;
ALTER TABLE "usage_counter" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "usage_counter" FORCE ROW LEVEL SECURITY;
ALTER TABLE "lease" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "lease" FORCE ROW LEVEL SECURITY;
ALTER TABLE "rate_limit" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "rate_limit" FORCE ROW LEVEL SECURITY;
ALTER TABLE "usage_record" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "usage_record" FORCE ROW LEVEL SECURITY;
ALTER TABLE "account" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "account" FORCE ROW LEVEL SECURITY;
ALTER TABLE "transfer" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "transfer" FORCE ROW LEVEL SECURITY;
ALTER TABLE "subscription_charge" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "subscription_charge" FORCE ROW LEVEL SECURITY;
ALTER TABLE "idempotency_key" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "idempotency_key" FORCE ROW LEVEL SECURITY;
ALTER TABLE "replay" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "replay" FORCE ROW LEVEL SECURITY;

-- mercato_system: authentication, leases, settlement, jobs, audit.
GRANT SELECT, INSERT, UPDATE, DELETE ON "server_process" TO mercato_system;
CREATE POLICY "system" ON "server_process" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON "invalidation" TO mercato_system;
CREATE POLICY "system" ON "invalidation" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON "session" TO mercato_system;
CREATE POLICY "system" ON "session" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON "refresh_token" TO mercato_system;
CREATE POLICY "system" ON "refresh_token" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON "api_key_use" TO mercato_system;
CREATE POLICY "system" ON "api_key_use" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON "lease" TO mercato_system;
CREATE POLICY "system" ON "lease" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON "rate_limit" TO mercato_system;
CREATE POLICY "system" ON "rate_limit" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON "replay" TO mercato_system;
CREATE POLICY "system" ON "replay" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON "tenant" TO mercato_system;
CREATE POLICY "system" ON "tenant" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON "app_user" TO mercato_system;
CREATE POLICY "system" ON "app_user" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON "member" TO mercato_system;
CREATE POLICY "system" ON "member" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON "api_key" TO mercato_system;
CREATE POLICY "system" ON "api_key" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON "upload" TO mercato_system;
CREATE POLICY "system" ON "upload" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON "usage_counter" TO mercato_system;
CREATE POLICY "system" ON "usage_counter" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON "account" TO mercato_system;
CREATE POLICY "system" ON "account" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON "subscription_charge" TO mercato_system;
CREATE POLICY "system" ON "subscription_charge" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON "usage_record" TO mercato_system;
CREATE POLICY "system" ON "usage_record" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON "transfer" TO mercato_system;
CREATE POLICY "system" ON "transfer" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON "idempotency_key" TO mercato_system;
CREATE POLICY "system" ON "idempotency_key" TO mercato_system USING (true) WITH CHECK (true);
GRANT SELECT ON "plan_version" TO mercato_system;
CREATE POLICY "system" ON "plan_version" FOR SELECT TO mercato_system USING (true);
GRANT SELECT ON "subscription" TO mercato_system;
CREATE POLICY "system" ON "subscription" FOR SELECT TO mercato_system USING (true);
GRANT SELECT ON "model_version" TO mercato_system;
CREATE POLICY "system" ON "model_version" FOR SELECT TO mercato_system USING (true);
GRANT SELECT ON "listing" TO mercato_system;
CREATE POLICY "system" ON "listing" FOR SELECT TO mercato_system USING (true);
GRANT USAGE ON SEQUENCE "invalidation_seq_seq" TO mercato_system;
REVOKE EXECUTE ON FUNCTION mercato_ensure_partitions(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mercato_ensure_partitions(int) TO mercato_system;

-- Tells every process to forget what it remembers of the subjects; returns the last sequence number. Under a lock until the commit, so that
-- sequence order is commit order: call it last. Whoever may change a row may say so.
CREATE FUNCTION mercato_invalidate(kind text, subjects uuid[]) RETURNS bigint
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  last bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('mercato.invalidation'));
  WITH written AS (
    INSERT INTO invalidation (kind, subject_id) SELECT mercato_invalidate.kind, unnest(subjects) RETURNING seq
  ) SELECT max(seq) INTO last FROM written;
  PERFORM pg_notify('mercato_invalidation', last::text);
  RETURN last;
END
$$;
CREATE POLICY "owner" ON "invalidation" TO mercato_owner USING (true) WITH CHECK (true);
REVOKE EXECUTE ON FUNCTION mercato_invalidate(text, uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mercato_invalidate(text, uuid[]) TO mercato_tenant, mercato_system;

-- mercato_tenant: its own rows, the rows that it shares as a side, and the public catalogue.
GRANT SELECT ON "tenant", "app_user", "member", "api_key_use", "usage_counter", "usage_record", "account", "transfer", "subscription_charge"
  TO mercato_tenant;
GRANT SELECT, INSERT, UPDATE ON "api_key", "upload", "model_version", "listing", "plan", "subscription" TO mercato_tenant;
GRANT SELECT, INSERT ON "model", "plan_version" TO mercato_tenant;

CREATE POLICY "own" ON "tenant" FOR SELECT TO mercato_tenant USING ("id" = mercato_tenant_id());
CREATE POLICY "own" ON "member" FOR SELECT TO mercato_tenant USING ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "app_user" FOR SELECT TO mercato_tenant
  USING (EXISTS (SELECT FROM "member" m WHERE m."user_id" = "app_user"."id" AND m."tenant_id" = mercato_tenant_id()));
CREATE POLICY "own" ON "api_key" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "api_key_use" FOR SELECT TO mercato_tenant USING ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "upload" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "model" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "model_version" TO mercato_tenant USING ("tenant_id" = mercato_tenant_id()) WITH CHECK ("tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "listing" TO mercato_tenant
  USING ("publisher_tenant_id" = mercato_tenant_id()) WITH CHECK ("publisher_tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "plan" TO mercato_tenant
  USING ("publisher_tenant_id" = mercato_tenant_id()) WITH CHECK ("publisher_tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "plan_version" TO mercato_tenant
  USING ("publisher_tenant_id" = mercato_tenant_id()) WITH CHECK ("publisher_tenant_id" = mercato_tenant_id());
CREATE POLICY "own" ON "subscription" TO mercato_tenant
  USING ("consumer_tenant_id" = mercato_tenant_id()) WITH CHECK ("consumer_tenant_id" = mercato_tenant_id());
CREATE POLICY "publisher" ON "subscription" FOR SELECT TO mercato_tenant USING ("publisher_tenant_id" = mercato_tenant_id());
CREATE POLICY "sides" ON "usage_counter" FOR SELECT TO mercato_tenant
  USING (mercato_tenant_id() IN ("consumer_tenant_id", "publisher_tenant_id"));
CREATE POLICY "sides" ON "usage_record" FOR SELECT TO mercato_tenant
  USING (mercato_tenant_id() IN ("consumer_tenant_id", "publisher_tenant_id"));
CREATE POLICY "own" ON "account" FOR SELECT TO mercato_tenant USING ("tenant_id" = mercato_tenant_id());
CREATE POLICY "sides" ON "transfer" FOR SELECT TO mercato_tenant
  USING (mercato_tenant_id() IN ("consumer_tenant_id", "publisher_tenant_id"));
CREATE POLICY "own" ON "subscription_charge" FOR SELECT TO mercato_tenant USING ("publisher_tenant_id" = mercato_tenant_id());

-- The public catalogue, and what a consumer subscribed to before it was withdrawn.
CREATE POLICY "public" ON "listing" FOR SELECT TO mercato_tenant USING (
  "state" = 'PUBLISHED' OR EXISTS (
    SELECT FROM "subscription" s WHERE s."listing_id" = "listing"."id" AND s."consumer_tenant_id" = mercato_tenant_id() AND s."state" = 'ACTIVE'));
CREATE POLICY "public" ON "tenant" FOR SELECT TO mercato_tenant
  USING (EXISTS (SELECT FROM "listing" l WHERE l."publisher_tenant_id" = "tenant"."id"));
CREATE POLICY "public" ON "model" FOR SELECT TO mercato_tenant
  USING (EXISTS (SELECT FROM "listing" l WHERE l."model_id" = "model"."id"));
CREATE POLICY "public" ON "model_version" FOR SELECT TO mercato_tenant
  USING ("published_at" IS NOT NULL AND EXISTS (SELECT FROM "listing" l WHERE l."model_id" = "model_version"."model_id"));
CREATE POLICY "public" ON "plan" FOR SELECT TO mercato_tenant
  USING (EXISTS (SELECT FROM "listing" l WHERE l."id" = "plan"."listing_id"));
CREATE POLICY "public" ON "plan_version" FOR SELECT TO mercato_tenant
  USING (EXISTS (SELECT FROM "plan" p WHERE p."id" = "plan_version"."plan_id"));

COMMIT;
