-- Two-phase transfers, reversals, payouts and closed periods. A new value of an enum cannot be used in the transaction that adds it, hence two.
BEGIN;
SET LOCAL ROLE mercato_owner;

-- AlterEnum
ALTER TYPE "account_kind" ADD VALUE IF NOT EXISTS 'PAYOUT_CLEARING';

-- AlterEnum
ALTER TYPE "transfer_kind" ADD VALUE IF NOT EXISTS 'ADJUSTMENT';
ALTER TYPE "transfer_kind" ADD VALUE IF NOT EXISTS 'PAYOUT';
ALTER TYPE "transfer_kind" ADD VALUE IF NOT EXISTS 'REVERSAL';

COMMIT;

BEGIN;
SET LOCAL ROLE mercato_owner;

-- CreateEnum
CREATE TYPE "transfer_phase" AS ENUM ('POSTED', 'PENDING', 'POST_PENDING', 'VOID_PENDING', 'EXPIRE_PENDING');

-- AlterTable
ALTER TABLE "account" ADD COLUMN     "pending_credits_nanos" DECIMAL(38,0) NOT NULL DEFAULT 0,
ADD COLUMN     "pending_debits_nanos" DECIMAL(38,0) NOT NULL DEFAULT 0;

-- AlterTable
ALTER TABLE "transfer" ADD COLUMN     "expires_at" TIMESTAMPTZ(3),
ADD COLUMN     "pending_id" UUID,
ADD COLUMN     "phase" "transfer_phase" NOT NULL DEFAULT 'POSTED',
ADD COLUMN     "reverses_id" UUID;

-- CreateTable
CREATE TABLE "closed_period" (
    "period" TEXT NOT NULL,
    "closed_at" TIMESTAMPTZ(3) NOT NULL DEFAULT mercato_now(),

    CONSTRAINT "closed_period_pkey" PRIMARY KEY ("period")
);

-- ─── What Prisma's schema cannot say ───

ALTER TABLE "account" ADD CONSTRAINT "account_pending_check" CHECK ("pending_debits_nanos" >= 0 AND "pending_credits_nanos" >= 0);
ALTER TABLE "account" DROP CONSTRAINT "account_wallet_check";
ALTER TABLE "account" ADD CONSTRAINT "account_wallet_check" CHECK (
  "held_nanos" >= 0 AND "credit_limit_nanos" >= 0
  AND ("kind" <> 'WALLET' OR "balance_nanos" - "held_nanos" - "pending_debits_nanos" >= - "credit_limit_nanos"));
-- A settlement adds a charge less its commission, which is never more than the charge.
ALTER TABLE "account" ADD CONSTRAINT "account_payable_check" CHECK (
  "kind" <> 'PUBLISHER_PAYABLE' OR "balance_nanos" - "pending_debits_nanos" >= 0);

-- Every row's amount is above zero (transfer_bounds_check), that of a VOID_PENDING or EXPIRE_PENDING too: it is what the row releases.
ALTER TABLE "transfer" ADD CONSTRAINT "transfer_phase_check" CHECK (
  ("phase" IN ('POST_PENDING', 'VOID_PENDING', 'EXPIRE_PENDING')) = ("pending_id" IS NOT NULL)
  AND ("phase" = 'POSTED' OR "kind" IN ('ADJUSTMENT', 'PAYOUT'))
  AND ("expires_at" IS NULL OR ("phase" = 'PENDING' AND "expires_at" > "created_at"))
  AND ("kind" = 'REVERSAL') = ("reverses_id" IS NOT NULL));
CREATE UNIQUE INDEX "transfer_pending_key" ON "transfer" ("pending_id") WHERE "pending_id" IS NOT NULL;
CREATE UNIQUE INDEX "transfer_reverses_key" ON "transfer" ("reverses_id") WHERE "reverses_id" IS NOT NULL;
CREATE INDEX "transfer_expires_idx" ON "transfer" ("expires_at") WHERE "expires_at" IS NOT NULL;

-- What resolves or reverses a transfer says the same as it, or the opposite. A settlement writes no such row, and pays for no look.
CREATE FUNCTION mercato_check_reference() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  base transfer;
BEGIN
  SELECT * INTO base FROM transfer t WHERE t.id = coalesce(NEW.pending_id, NEW.reverses_id);
  IF NEW.pending_id IS NOT NULL THEN
    IF base.phase IS DISTINCT FROM 'PENDING'
       OR (NEW.kind, NEW.debit_account_id, NEW.credit_account_id, NEW.currency)
          IS DISTINCT FROM (base.kind, base.debit_account_id, base.credit_account_id, base.currency)
       OR NEW.amount_nanos > base.amount_nanos OR (NEW.phase <> 'POST_PENDING' AND NEW.amount_nanos <> base.amount_nanos) THEN
      RAISE EXCEPTION 'transfer % does not resolve %', NEW.id, NEW.pending_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
  ELSIF base.id IS NULL OR base.phase NOT IN ('POSTED', 'POST_PENDING') OR base.kind = 'REVERSAL'
        OR (NEW.debit_account_id, NEW.credit_account_id, NEW.currency, NEW.amount_nanos)
           IS DISTINCT FROM (base.credit_account_id, base.debit_account_id, base.currency, base.amount_nanos) THEN
    RAISE EXCEPTION 'transfer % does not reverse %', NEW.id, NEW.reverses_id USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER "transfer_reference" BEFORE INSERT ON "transfer" FOR EACH ROW
  WHEN (NEW.pending_id IS NOT NULL OR NEW.reverses_id IS NOT NULL) EXECUTE FUNCTION mercato_check_reference();

-- ─── Closed periods ───

ALTER TABLE "closed_period" ADD CONSTRAINT "closed_period_period_check" CHECK ("period" ~ '^[0-9]{4}-(0[1-9]|1[0-2])$');
CREATE TRIGGER "closed_period_append_only" BEFORE UPDATE OR DELETE ON "closed_period" FOR EACH ROW EXECUTE FUNCTION mercato_refuse_change();
CREATE TRIGGER "closed_period_no_truncate" BEFORE TRUNCATE ON "closed_period" FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change();

-- A query in a trigger sees what was committed before the row is written, not before its transaction began: every writer is READ COMMITTED.
CREATE FUNCTION mercato_check_period() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM closed_period c WHERE c.period = NEW.period) THEN
    RAISE EXCEPTION 'the period % is closed', NEW.period USING ERRCODE = 'MC003';
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER "transfer_period" BEFORE INSERT ON "transfer" FOR EACH ROW EXECUTE FUNCTION mercato_check_period();

-- On the partition of a closed period.
CREATE FUNCTION mercato_refuse_record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the period % is closed', NEW.period USING ERRCODE = 'MC003';
END
$$;

-- Closes the books of a month: from now on no usage record and no transfer of it is written (MC003). Refuses, in this order: a month that is
-- not over (MC010), one without books (MC013), a closed one (MC012), one with units still leased (MC011).
--
-- No settlement can be halfway through. It locks its counters before it writes, so either it ends before the lock on the counters here is had,
-- and its rows belong to the closed books; or it waits for that lock, and then meets the seal on the partition. A transfer that needs no
-- counter holds ROW EXCLUSIVE on `transfer` from before its trigger looks until its transaction ends. The lock on `transfer` here conflicts with
-- it: either that transaction has ended, or its trigger looks after this commit and finds the period closed. `closed_at` is read under both.
--
-- Nobody who waits for these locks holds one that is waited for here: leases come before counters, and whoever writes transfers does so before
-- it locks accounts. A wait for long ends this (55P03), so that nobody queues behind it for long.
CREATE FUNCTION mercato_close_period(month text) RETURNS timestamptz
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
  child text := 'usage_record_' || replace(month, '-', '_');
  at timestamptz;
BEGIN
  IF month IS NULL OR month !~ '^[0-9]{4}-(0[1-9]|1[0-2])$' OR month >= mercato_period(mercato_now()) THEN
    RAISE EXCEPTION 'the period % is not over', month USING ERRCODE = 'MC010';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('mercato.close_period'));
  IF NOT EXISTS (SELECT FROM pg_class WHERE relname = child AND relnamespace = 'public'::regnamespace) THEN
    RAISE EXCEPTION 'the period % has no books', month USING ERRCODE = 'MC013';
  END IF;
  IF EXISTS (SELECT FROM closed_period c WHERE c.period = month) THEN
    RAISE EXCEPTION 'the period % is closed already', month USING ERRCODE = 'MC012';
  END IF;
  PERFORM FROM usage_counter u WHERE u.period = month ORDER BY u.consumer_tenant_id, u.listing_id FOR UPDATE;
  IF EXISTS (SELECT FROM usage_counter u WHERE u.period = month AND u.leased_units > 0)
     OR EXISTS (SELECT FROM lease l WHERE l.period = month AND l.units > 0) THEN
    RAISE EXCEPTION 'the period % has leases left', month USING ERRCODE = 'MC011';
  END IF;
  EXECUTE format('CREATE TRIGGER "closed" BEFORE INSERT ON %I FOR EACH ROW EXECUTE FUNCTION mercato_refuse_record()', child);
  LOCK TABLE transfer IN SHARE ROW EXCLUSIVE MODE;
  INSERT INTO closed_period (period) VALUES (month) RETURNING closed_at INTO at;
  RETURN at;
END
$$;
REVOKE EXECUTE ON FUNCTION mercato_close_period(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mercato_close_period(text) TO mercato_system;

-- ─── Walls ───

ALTER TABLE "closed_period" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "closed_period" FORCE ROW LEVEL SECURITY;
GRANT SELECT ON "closed_period" TO mercato_system;
CREATE POLICY "system" ON "closed_period" FOR SELECT TO mercato_system USING (true);
-- What mercato_close_period does, it does as the owner, from whom forced row-level security hides the rows. FOR UPDATE asks both policies.
CREATE POLICY "owner" ON "closed_period" TO mercato_owner USING (true) WITH CHECK (true);
CREATE POLICY "owner" ON "usage_counter" TO mercato_owner USING (true) WITH CHECK (true);
CREATE POLICY "owner" ON "lease" FOR SELECT TO mercato_owner USING (true);

COMMIT;
