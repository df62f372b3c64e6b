import { globalId, newId } from '../../src/base/ids.ts';
import { Client } from '../support/client.ts';
import { ask } from './clock.ts';
import { type Done, doOften, type Mutation } from './deeds.ts';
import { uuidOf } from './journal.ts';
import type { Running } from './round.ts';
import { CREDIT_NANOS, type Payer } from './stage.ts';

const PUBLISHER = 'mercato';
const TRANSFER = 'made: transfer { id }';
const MUTATIONS = {
  addCredit: ['AddCreditInput', TRANSFER],
  createTransfer: ['CreateTransferInput', TRANSFER],
  postTransfer: ['PostTransferInput', TRANSFER],
  voidTransfer: ['VoidTransferInput', TRANSFER],
  reverseTransfer: ['ReverseTransferInput', TRANSFER],
  createApiKey: ['CreateApiKeyInput', 'made: apiKey { id } secret'],
} as const;

/** The driver's own ledger of a payer: what was done, and what that makes of the wallet. */
export class Ledger implements Disposable {
  readonly wrong: string[] = [];
  sent = 0;
  private readonly running: Running;
  private readonly operator: string;
  private readonly client: Client;
  private readonly note = newId();
  private readonly transfers = new Set<string>();
  private readonly keys = new Set<string>();
  private readonly reversed = new Set<string>();
  private walletNanos = CREDIT_NANOS;

  constructor(running: Running, operator: string) {
    this.running = running;
    this.operator = operator;
    this.client = new Client(running.stage.url, 32);
  }

  [Symbol.dispose](): void {
    this.client[Symbol.dispose]();
  }

  async credit(amountNanos: bigint): Promise<void> {
    const { name } = this.payer;
    const input = { tenantName: name, amountNanos: String(amountNanos), note: this.note, idempotencyKey: newId() };
    await this.oneOf([{ deed: this.deed('addCredit', input), walletNanos: amountNanos }]);
  }

  async apiKey(): Promise<void> {
    const name = newId();
    const { made } = await this.send(this.deed('createApiKey', { name, idempotencyKey: newId() }, this.payer.token));
    if (made === null) this.wrong.push(`the key ${name} was refused`);
    else this.keys.add(uuidOf(made));
  }

  adjust(direction: 'IN' | 'OUT', amountNanos: bigint, pending = false): Promise<string> {
    const input = { kind: 'ADJUSTMENT', direction, tenantName: this.payer.name, amountNanos: String(amountNanos), pending };
    const signed = direction === 'IN' ? amountNanos : -amountNanos;
    return this.oneOf([{ deed: this.deed('createTransfer', this.named(input)), walletNanos: pending ? 0n : signed }]);
  }

  payOut(amountNanos: bigint, pending: boolean): Promise<string> {
    const input = { kind: 'PAYOUT', tenantName: PUBLISHER, amountNanos: String(amountNanos), pending };
    return this.oneOf([{ deed: this.deed('createTransfer', this.named(input)), walletNanos: 0n }]);
  }

  post(pendingId: string, amountNanos: bigint | null, walletNanos: bigint): Move {
    const input = this.named({ pendingId, amountNanos: amountNanos === null ? null : String(amountNanos) });
    return { deed: this.deed('postTransfer', input), walletNanos };
  }

  cancel(pendingId: string): Move {
    return { deed: this.deed('voidTransfer', this.named({ pendingId })), walletNanos: 0n };
  }

  reverse(reversesId: string, walletNanos: bigint): Move {
    return { deed: this.deed('reverseTransfer', this.named({ reversesId })), walletNanos };
  }

  /** Of a charge that this ledger has not reversed. */
  async reverseCharge(): Promise<void> {
    const rows = await ask<{ id: string; amount: string }>(
      this.running.stage,
      "select id, amount_nanos::text amount from transfer where kind = 'CHARGE' and consumer_tenant_id = $1 and id <> all ($2) limit 1",
      [this.payer.tenantId, [...this.reversed]],
    );
    const [charge] = rows;
    if (charge === undefined) return;
    this.reversed.add(charge.id);
    await this.oneOf([this.reverse(globalId('Transfer', charge.id), BigInt(charge.amount))]);
  }

  /** Does them all at once, of which exactly one can be done. Resolves to its transfer's global id. */
  async oneOf(moves: readonly Move[]): Promise<string> {
    const done = await Promise.all(moves.map(async ({ deed, walletNanos }) => ({ ...(await this.send(deed)), walletNanos })));
    const made = done.flatMap((one) => (one.made === null ? [] : [{ id: one.made, walletNanos: one.walletNanos }]));
    if (made.length !== 1) this.wrong.push(`${made.length} of ${moves.map(({ deed }) => deed.name).join(', ')} were done`);
    for (const { id, walletNanos } of made) {
      this.transfers.add(uuidOf(id));
      this.walletNanos += walletNanos;
    }
    return made[0]?.id ?? '';
  }

  /** What the database's ledger has otherwise, in words. */
  async compared(): Promise<string[]> {
    const { stage } = this.running;
    const { tenantId } = this.payer;
    // With a charge's reversal goes that of its commission, under an id of its own.
    const rows = await ask<{ id: string }>(
      stage,
      `select t.id from transfer t left join transfer o on o.id = t.reverses_id where t.note = $1 and o.kind is distinct from 'COMMISSION'`,
      [this.note],
    );
    const keys = await ask<{ id: string }>(stage, 'select id from api_key where tenant_id = $1 and id <> $2', [
      tenantId,
      uuidOf(this.payer.keyId),
    ]);
    const [wallet] = await ask<{ balance: string; pending: string; charged: string }>(
      stage,
      `select balance_nanos::text balance, (pending_debits_nanos + pending_credits_nanos)::text pending,
              (select coalesce(sum(amount_nanos), 0) from transfer where kind = 'CHARGE' and consumer_tenant_id = $1)::text charged
         from account where kind = 'WALLET' and tenant_id = $1`,
      [tenantId],
    );
    const due = this.walletNanos - BigInt(wallet?.charged ?? 0);
    return [
      ...differences('transfers', this.transfers, rows),
      ...differences('API keys', this.keys, keys),
      ...(wallet?.balance === String(due) ? [] : [`the wallet has ${wallet?.balance} nanos, not ${due}`]),
      ...(wallet?.pending === '0' ? [] : [`${wallet?.pending} nanos are pending`]),
    ];
  }

  private get payer(): Payer {
    return this.running.payer;
  }

  private named(input: object): object {
    return { id: newId(), note: this.note, ...input };
  }

  private deed(mutation: keyof typeof MUTATIONS, input: object, token = this.operator): Mutation {
    const [type, answer] = MUTATIONS[mutation];
    return { name: mutation, query: `mutation ($input: ${type}!) { done: ${mutation}(input: $input) { ${answer} } }`, input, token };
  }

  private async send(deed: Mutation): Promise<Done> {
    this.sent++;
    const done = await doOften(this.client, deed, this.running.dice);
    this.wrong.push(...done.wrong);
    return done;
  }
}

type Move = { deed: Mutation; walletNanos: bigint };

function differences(what: string, told: ReadonlySet<string>, rows: readonly { id: string }[]): string[] {
  const there = new Set(rows.map(({ id }) => id));
  const missing = [...told].filter((id) => !there.has(id));
  const untold = [...there].filter((id) => !told.has(id));
  return [
    ...(missing.length === 0 ? [] : [`${missing.length} ${what} that were answered are not there: ${missing[0]}`]),
    ...(untold.length === 0 ? [] : [`${untold.length} ${what} are there that no answer told of: ${untold[0]}`]),
  ];
}
