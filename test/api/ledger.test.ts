import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Client, type GraphQLAnswer } from '../support/client.ts';
import { signIn, signUp } from '../support/people.ts';
import { type Market, openMarket } from '../support/server.ts';

let market: Market;
let client: Client;
let operator: string;
beforeAll(async () => {
  market = await openMarket();
  client = new Client((await market.start()).url);
  operator = await signIn(client, (await market.demo()).operator);
}, 60_000);
afterAll(async () => {
  client[Symbol.dispose]();
  expect(await market.audit()).toContain('invariants hold');
  expect(await market.audit('demo')).toContain('invariants hold');
  await expect(market.audit('nobody')).rejects.toThrow('exited with 2');
  await market[Symbol.asyncDispose]();
});

const TRANSFER = 'transfer { id kind phase direction amount { nanos } note pendingId reversesId expiresAt }';
type Shown = { id: string; expiresAt: string | null } & Record<string, unknown>;

const send = (field: string, input: object): Promise<GraphQLAnswer> => {
  const type = `${field.charAt(0).toUpperCase()}${field.slice(1)}Input`;
  return client.send(`mutation ($input: ${type}!) { ${field}(input: $input) { ${TRANSFER} } }`, { input }, operator);
};
const made = async (field: string, input: object): Promise<Shown> => {
  const { data, errors } = await send(field, input);
  expect(errors).toBeUndefined();
  return (data as Record<string, { transfer: Shown }>)[field]?.transfer as Shown;
};
const refused = async (field: string, input: object) => (await send(field, input)).errors?.[0]?.extensions;
const walletOf = async (token: string) =>
  (await client.ask<{ wallet: object }>('{ wallet { balance { nanos } pending { nanos } } }', {}, token)).wallet;

test('an operator adjusts, reserves, posts a part, reverses, and is told by name what cannot be', async () => {
  const { token, tenantId } = await signUp(client, 'adjusted');
  const up = { id: randomUUID(), kind: 'ADJUSTMENT', direction: 'IN', tenantName: 'adjusted', amountNanos: '100', note: 'goodwill' };
  const first = await made('createTransfer', up);
  expect(first).toMatchObject({
    kind: 'ADJUSTMENT',
    phase: 'POSTED',
    direction: 'IN',
    amount: { nanos: '100' },
    note: 'goodwill',
    pendingId: null,
  });
  const { tenantName: _, ...rest } = up;
  expect(await made('createTransfer', { ...rest, tenantId })).toEqual(first);
  expect(await refused('createTransfer', { ...up, amountNanos: '101' })).toMatchObject({
    code: 'IDEMPOTENCY_CONFLICT',
    field: 'amountNanos',
  });

  const down = { ...up, id: randomUUID(), direction: 'OUT', amountNanos: '70', note: null, pending: true, timeoutMs: 60_000 };
  const pending = await made('createTransfer', down);
  expect(pending).toMatchObject({ phase: 'PENDING', direction: 'OUT', expiresAt: expect.stringMatching(/Z$/) });
  expect(await walletOf(token)).toEqual({ balance: { nanos: '100' }, pending: { nanos: '70' } });
  const more = { ...up, id: randomUUID(), direction: 'OUT', amountNanos: '31' };
  expect(await refused('createTransfer', more)).toEqual({
    ...{ code: 'CONFLICT', rule: 'EXCEEDS_BALANCE', field: 'amountNanos', given: '31', expected: 'at most 30', retryable: false },
  });
  const posting = { id: randomUUID(), pendingId: pending.id, amountNanos: '20' };
  const posted = await made('postTransfer', posting);
  expect(posted).toMatchObject({ phase: 'POST_PENDING', amount: { nanos: '20' }, pendingId: pending.id });
  expect(await refused('voidTransfer', { id: randomUUID(), pendingId: pending.id })).toMatchObject({ rule: 'ALREADY_POSTED' });
  const reversal = await made('reverseTransfer', { id: randomUUID(), reversesId: posted.id, note: 'mistaken' });
  expect(reversal).toMatchObject({ kind: 'REVERSAL', direction: 'IN', reversesId: posted.id });
  expect(await walletOf(token)).toEqual({ balance: { nanos: '100' }, pending: { nanos: '0' } });
  const query = '{ transfers { nodes { id } } }';
  const { transfers } = await client.ask<{ transfers: { nodes: { id: string }[] } }>(query, {}, token);
  expect(transfers.nodes.map(({ id }) => id)).toEqual([reversal, posted, pending, first].map(({ id }) => id));
});

test('a payout is voided where the bank refuses it', async () => {
  await signUp(client, 'payee');
  const payout = { id: randomUUID(), kind: 'PAYOUT', tenantName: 'payee', amountNanos: '1', pending: true };
  expect(await refused('createTransfer', payout)).toMatchObject({ rule: 'EXCEEDS_BALANCE', expected: 'at most 0' });
  const pending = await made('createTransfer', { ...payout, kind: 'ADJUSTMENT', direction: 'IN' });
  expect(await made('voidTransfer', { id: randomUUID(), pendingId: pending.id })).toMatchObject({ phase: 'VOID_PENDING', expiresAt: null });
});

test('ids, amounts and months are looked at', async () => {
  const wrong = { id: randomUUID(), pendingId: 'nothing', amountNanos: '1' };
  expect(await refused('postTransfer', wrong)).toMatchObject({ code: 'BAD_USER_INPUT', field: 'pendingId' });
  expect(await refused('postTransfer', { ...wrong, amountNanos: '1.5' })).toMatchObject({ code: 'BAD_USER_INPUT', field: 'amountNanos' });
  expect(await refused('reverseTransfer', { id: wrong.id, reversesId: 'nothing' })).toMatchObject({ field: 'reversesId' });
  expect(
    await refused('createTransfer', { ...wrong, pendingId: undefined, id: 'no uuid', kind: 'PAYOUT', tenantName: 'nobody' }),
  ).toMatchObject({
    field: 'id',
  });
  const query = 'mutation ($period: String!) { closePeriod(input: { period: $period }) { period { period closedAt } } }';
  const now = new Date().toISOString().slice(0, 7);
  const { errors } = await client.send(query, { period: now }, operator);
  expect(errors?.[0]?.extensions).toMatchObject({ code: 'CONFLICT', rule: 'PERIOD_NOT_OVER', field: 'period', given: now });
  expect(await client.ask('{ periods { period closedAt } }', {}, operator)).toEqual({ periods: [] });
});
