import { afterAll, beforeAll, expect, it } from 'vitest';
import { asSystem } from '../../src/base/database.ts';
import { newId } from '../../src/base/ids.ts';
import { broken, type Core, openCore, type Process } from '../support/core.ts';
import { charged, event } from '../support/ledger.ts';

let core: Core;
let server: Process;
beforeAll(async () => {
  core = await openCore();
  server = await core.process();
});
afterAll(async () => {
  expect(await broken(core.db)).toEqual([]);
  await core[Symbol.asyncDispose]();
});

/** What the database says to mercato_system itself, past the ledger's code. */
const raw = (sql: string) =>
  asSystem(core.db, (tx) => tx.$executeRawUnsafe(sql)).then(
    () => 'done',
    (error: Error) => error.message,
  );

it.each([
  ['WALLET', 'balance_nanos = -1', 'account_wallet_check'],
  ['WALLET', 'pending_debits_nanos = balance_nanos - held_nanos + 1', 'account_wallet_check'],
  ['PUBLISHER_PAYABLE', 'balance_nanos = -1', 'account_payable_check'],
  ['PUBLISHER_PAYABLE', 'pending_debits_nanos = balance_nanos + 1', 'account_payable_check'],
  ['FUNDING', 'pending_debits_nanos = -1', 'account_pending_check'],
  ['FUNDING', 'pending_credits_nanos = -1', 'account_pending_check'],
])('refuses a %s with %s', async (kind, change, check) => {
  await charged(core, server);
  expect(await raw(`update account set ${change} where kind = '${kind}'`)).toContain(check);
});

it.each([
  ['a resolution of nothing', { phase: 'POST_PENDING' }, 'transfer_phase_check'],
  ['a posted transfer that resolves', { pending_id: 'PENDING' }, 'transfer_phase_check'],
  ['a pending charge', { kind: 'CHARGE', phase: 'PENDING' }, 'transfer_phase_check'],
  ['an expiry of what is posted', { expires_at: '2027-01-01' }, 'transfer_phase_check'],
  ['an expiry in the past', { phase: 'PENDING', expires_at: '2026-01-01' }, 'transfer_phase_check'],
  ['a reversal of nothing', { kind: 'REVERSAL' }, 'transfer_phase_check'],
  ['a payout that reverses', { reverses_id: 'BACK', debit: 'to', credit: 'from' }, 'transfer_phase_check'],
  ['an amount of nothing', { amount: 0 }, 'transfer_bounds_check'],
  ['a second resolution', { phase: 'VOID_PENDING', pending_id: 'RESOLVED' }, 'transfer_pending_key'],
  ['a second reversal', { kind: 'REVERSAL', reverses_id: 'REVERSED', debit: 'to', credit: 'from' }, 'transfer_reverses_key'],
  ['a resolution of a posted transfer', { phase: 'POST_PENDING', pending_id: 'BACK' }, 'does not resolve'],
  ['a resolution of none that exists', { phase: 'POST_PENDING', pending_id: 'NONE' }, 'does not resolve'],
  ['a posting of more', { phase: 'POST_PENDING', pending_id: 'PENDING', amount: 11 }, 'does not resolve'],
  ['a voiding of less', { phase: 'VOID_PENDING', pending_id: 'PENDING', amount: 9 }, 'does not resolve'],
  ['a posting between other accounts', { phase: 'POST_PENDING', pending_id: 'PENDING', debit: 'to', credit: 'from' }, 'does not resolve'],
  ['a posting of another kind', { phase: 'POST_PENDING', pending_id: 'PENDING', kind: 'ADJUSTMENT' }, 'does not resolve'],
  ['a reversal of more', { kind: 'REVERSAL', reverses_id: 'BACK', debit: 'to', credit: 'from', amount: 11 }, 'does not reverse'],
  ['a reversal of a pending transfer', { kind: 'REVERSAL', reverses_id: 'PENDING', debit: 'to', credit: 'from' }, 'does not reverse'],
  ['a reversal of a reversal', { kind: 'REVERSAL', reverses_id: 'REVERSAL' }, 'does not reverse'],
  ['a reversal in the same direction', { kind: 'REVERSAL', reverses_id: 'BACK' }, 'does not reverse'],
])('refuses %s', async (_, given: Record<string, string | number>, message) => {
  const tenant = { id: (await charged(core, server)).publisherTenantId };
  const make = (pending: boolean) => core.billing.createTransfer(tenant, event(10n, { pending }));
  const ids: Record<string, string> = { NONE: newId() };
  for (const name of ['PENDING', 'RESOLVED']) ids[name] = (await make(true)).id;
  for (const name of ['BACK', 'REVERSED']) ids[name] = (await make(false)).id;
  await core.billing.postTransfer({ id: newId(), pendingId: ids.RESOLVED ?? '', amountNanos: null, note: null });
  ids.REVERSAL = (await core.billing.reverseTransfer({ id: newId(), reversesId: ids.REVERSED ?? '', note: null })).id;
  const { phase = 'POSTED', kind = 'PAYOUT', amount = 10, debit = 'from', credit = 'to' } = given;
  const text = (name: string) => (given[name] === undefined ? 'null' : `'${ids[given[name]] ?? given[name]}'`);
  const end = (side: string | number) =>
    `(select ${side === 'from' ? 'debit_account_id' : 'credit_account_id'} from transfer where id = '${ids.BACK}')`;
  const sql = `insert into transfer (id, batch_id, kind, phase, debit_account_id, credit_account_id, amount_nanos, currency, period, pending_id, reverses_id, expires_at)
    values ('${newId()}', '${newId()}', '${kind}', '${phase}', ${end(debit)}, ${end(credit)}, ${amount}, 'EUR', '2026-11',
            ${text('pending_id')}::uuid, ${text('reverses_id')}::uuid, ${text('expires_at')}::timestamptz)`;
  expect(await raw(sql)).toContain(message);
});
