import { asSystem } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import type { TransferEvent } from '../../src/billing/billing.ts';
import { asAdmin } from './admin.ts';
import { type Core, finished, type Process, type Right } from './core.ts';

export type AccountSums = { balance: bigint; debits: bigint; credits: bigint };

/** A tenant's account, or the platform's: balance, and what is pending out of it and into it. */
export async function accountOf(core: Core, kind: string, tenantId: string | null = null): Promise<AccountSums> {
  const [row] = await asSystem(
    core.db,
    (tx) => tx.$queryRaw<AccountSums[]>`
      select coalesce(sum(balance_nanos), 0)::bigint balance, coalesce(sum(pending_debits_nanos), 0)::bigint debits,
             coalesce(sum(pending_credits_nanos), 0)::bigint credits
        from account where kind::text = ${kind} and tenant_id is not distinct from ${tenantId}::uuid and currency = 'EUR'`,
  );
  if (!row) throw new Error('an aggregate without a row');
  return row;
}

/** A payout, posted, of a new id; `more` says otherwise. */
export const event = (amountNanos: bigint, more: Partial<TransferEvent> = {}): TransferEvent => ({
  ...{ id: newId(), kind: 'PAYOUT', direction: 'OUT', amountNanos, pending: false, timeoutMs: null, note: null },
  ...more,
});

/** A consumer who was charged 10,000 nanos, of which its publisher earned 8,500 and the marketplace 1,500. */
export async function charged(core: Core, server: Process): Promise<Right> {
  const right = await core.consumer({ unitPriceNanos: 10_000n }, 10_000n);
  await server.settlement.settle(finished(right, await server.leases.admit(right, 1, 1_000)));
  return right;
}

/** Marks a month as closed, whatever its state. */
export async function sealMonth(core: Core, month: string): Promise<void> {
  await asAdmin(core.db, (tx) => tx.$executeRaw`insert into closed_period (period) values (${month})`);
}

/** `CODE RULE field` of a refusal, without what it does not have; OK where there is none. */
export async function refusalOf(work: () => Promise<unknown>): Promise<string> {
  try {
    await work();
    return 'OK';
  } catch (error) {
    const { code, data } = error as { code?: string; data?: { rule?: string; field?: string } };
    return data ? [code, data.rule === code ? undefined : data.rule, data.field].filter(Boolean).join(' ') : `unexpected: ${error}`;
  }
}
