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

/** A statement that writes a transfer of a month. */
export function transferOf(period: string): string {
  const accounts = [newId(), newId()].map((id) => `'${id}'`).join();
  return `insert into transfer (id, batch_id, kind, debit_account_id, credit_account_id, amount_nanos, currency, period)
    values ('${newId()}', '${newId()}', 'CREDIT', ${accounts}, 1, 'EUR', '${period}')`;
}

/** A statement that writes a usage record of a month. */
export function recordOf(period: string): string {
  const ids = Array.from({ length: 6 }, () => `'${newId()}'`).join();
  return `insert into usage_record (period, id, consumer_tenant_id, publisher_tenant_id, listing_id, model_id, model_version_id, units, rows, runs,
      compute_micros, bytes_in, bytes_out, amount_nanos, currency)
    values ('${period}', ${ids}, 1, 1, 1, 1, 1, 1, 0, 'EUR')`;
}

/** Months that no test has used yet, one after the other. */
export function calendarOf(core: Core, processes: readonly Process[]) {
  let months = 0;
  return {
    /** It is the middle of a new month, whose predecessors' leases are swept; `end` goes to the start of the one after it. */
    async newMonth(): Promise<{ period: string; middle: string; aDayAfter: string; end(): Promise<void> }> {
      const period = new Date(Date.UTC(2020, 2 * ++months)).toISOString().slice(0, 7);
      const after = new Date(Date.UTC(2020, 2 * months + 1)).toISOString();
      const middle = `${period}-15T12:00:00Z`;
      await core.setClock(middle);
      for (const process of processes) await process.leases.maintain();
      const aDayAfter = new Date(Date.UTC(2020, 2 * months + 1, 2)).toISOString();
      return { period, middle, aDayAfter, end: () => core.setClock(after) };
    },
    close: (period: string) => refusalOf(() => core.billing.closePeriod(period)),
    closedMonths: async () => (await core.billing.periods()).map(({ period }) => period),
  };
}
