import type { Client } from './client.ts';
import type { Demo } from './server.ts';

type Tokens = { tokens: { accessToken: string }; tenant: { id: string; name: string } };

export async function signUp(client: Client, tenantName: string): Promise<{ token: string; tenantId: string }> {
  const input = { email: `${tenantName}@example.com`, password: 'correct horse battery', tenantName };
  const query = 'mutation ($input: SignUpInput!) { signUp(input: $input) { tokens { accessToken } tenant { id name } } }';
  const { signUp: made } = await client.ask<{ signUp: Tokens }>(query, { input }, null);
  return { token: made.tokens.accessToken, tenantId: made.tenant.id };
}

export async function signIn(client: Client, input: { email: string; password: string }): Promise<string> {
  const query = 'mutation ($input: SignInInput!) { signIn(input: $input) { tokens { accessToken } } }';
  const { signIn: made } = await client.ask<{ signIn: Tokens }>(query, { input }, null);
  return made.tokens.accessToken;
}

export async function createKey(client: Client, token: string): Promise<{ id: string; secret: string }> {
  const query = 'mutation { createApiKey(input: { name: "test" }) { secret apiKey { id } } }';
  const { createApiKey: made } = await client.ask<{ createApiKey: { secret: string; apiKey: { id: string } } }>(query, {}, token);
  return { id: made.apiKey.id, secret: made.secret };
}

export type Plan = {
  name: string;
  unitPriceNanos: string;
  freeUnitsPerMonth?: string;
  quotaUnitsPerMonth?: string;
  requestsPerMinute?: number;
  burst?: number;
};

/** Offers `mercato/digits` under these plans; ids by name. */
export async function offerDigits(client: Client, demo: Demo, plans: Plan[]): Promise<Map<string, string>> {
  const token = await signIn(client, demo.operator);
  const { model } = await client.ask<{ model: { id: string } }>('{ model(handle: "mercato/digits") { id } }', {}, token);
  const query = 'mutation ($input: PublishListingInput!) { publishListing(input: $input) { model { plans { id name } } } }';
  const made = await client.ask<{ publishListing: { model: { plans: { id: string; name: string }[] } } }>(
    query,
    { input: { modelId: model.id, plans } },
    token,
  );
  return new Map(made.publishListing.model.plans.map(({ id, name }) => [name, id]));
}

export async function addCredit(client: Client, demo: Demo, tenantName: string, amountNanos: string): Promise<void> {
  const token = await signIn(client, demo.operator);
  const query = 'mutation ($input: AddCreditInput!) { addCredit(input: $input) { transfer { id } } }';
  await client.ask(query, { input: { tenantName, amountNanos, idempotencyKey: `${tenantName}-${amountNanos}` } }, token);
}

/** A new tenant with a subscription to the plan, credit where given, and a key that may predict. */
export async function consumer(client: Client, demo: Demo, tenantName: string, planId: string, creditNanos: string | null = null) {
  const { token, tenantId } = await signUp(client, tenantName);
  await client.ask('mutation ($planId: ID!) { subscribe(input: { planId: $planId }) { subscription { id } } }', { planId }, token);
  if (creditNanos !== null) await addCredit(client, demo, tenantName, creditNanos);
  const key = await createKey(client, token);
  return { token, tenantId, key };
}

export type Bill = { predictions: bigint; units: bigint; amountNanos: bigint; balanceNanos: bigint; heldNanos: bigint };

/** What `usage` and `wallet` say of this month and the neighbouring days. */
export async function billOf(client: Client, token: string): Promise<Bill> {
  const day = 86_400_000;
  const variables = { from: new Date(Date.now() - 2 * day).toISOString(), to: new Date(Date.now() + 2 * day).toISOString() };
  const query = `query ($from: DateTime!, $to: DateTime!) {
    usage(from: $from, to: $to, groupBy: MODEL) { total { predictions units amount { nanos } } } wallet { balance { nanos } held { nanos } } }`;
  type Answer = {
    usage: { total: { predictions: string; units: string; amount: { nanos: string } } };
    wallet: { balance: { nanos: string }; held: { nanos: string } };
  };
  const { usage, wallet } = await client.ask<Answer>(query, variables, token);
  return {
    predictions: BigInt(usage.total.predictions),
    units: BigInt(usage.total.units),
    amountNanos: BigInt(usage.total.amount.nanos),
    balanceNanos: BigInt(wallet.balance.nanos),
    heldNanos: BigInt(wallet.held.nanos),
  };
}
