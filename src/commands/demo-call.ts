import { signUp } from './demo-model.ts';
import type { DemoServer } from './demo-server.ts';

const CREDIT_NANOS = '1000000000';
const PLANS = [
  { name: 'standard', unitPriceNanos: '20000', freeUnitsPerMonth: '2' },
  { name: 'small', unitPriceNanos: '8000', alias: 'small' },
];

export type Customer = { consumer: string; apiKey: string };

/** Publishes the two versions under a plan each, and makes a customer of the first. */
export async function subscribeTo(
  { ask, demo, ...server }: DemoServer,
  publisher: string,
  modelId: string,
  versions: { live: string; small: string },
): Promise<{ key: Customer; plans: { name: string; unitPriceNanos: string; alias?: string }[] }> {
  for (const [alias, versionId] of Object.entries(versions)) {
    await ask(publisher, 'mutation ($input: PromoteVersionInput!) { promoteVersion(input: $input) { model { id } } }', {
      input: { versionId, alias },
    });
  }
  const { publishListing } = await ask<{ publishListing: { model: { plans: { id: string; name: string }[] } } }>(
    publisher,
    'mutation ($input: PublishListingInput!) { publishListing(input: $input) { model { plans { id name } } } }',
    { input: { modelId, plans: PLANS } },
  );
  const consumer = await signUp({ ask, demo, ...server }, 'shop');
  const { signIn } = await ask<{ signIn: { tokens: { accessToken: string } } }>(
    null,
    'mutation ($input: SignInInput!) { signIn(input: $input) { tokens { accessToken } } }',
    { input: demo.operator },
  );
  await ask(signIn.tokens.accessToken, 'mutation ($input: AddCreditInput!) { addCredit(input: $input) { wallet { balance { nanos } } } }', {
    input: { tenantName: 'shop', amountNanos: CREDIT_NANOS, note: 'Welcome credit', idempotencyKey: 'demo' },
  });
  const planId = publishListing.model.plans.find(({ name }) => name === 'standard')?.id;
  await ask(consumer, 'mutation ($input: SubscribeInput!) { subscribe(input: $input) { subscription { id } } }', { input: { planId } });
  const { createApiKey } = await ask<{ createApiKey: { secret: string } }>(
    consumer,
    'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }',
    { input: { name: 'demo' } },
  );
  return { key: { consumer, apiKey: createApiKey.secret }, plans: PLANS };
}

export type Called = { label: number; probability: number; computeMs: number };

/** One digit to `studio/digits`, with an API key. */
export async function call({ ask }: DemoServer, { apiKey }: Customer, image: Uint8Array, idempotencyKey: string): Promise<Called> {
  const inputs = [{ name: 'image', datatype: 'UINT8', shape: [1, 28, 28], data: Buffer.from(image).toString('base64') }];
  type Prediction = { outputs: { name: string; data: (number | string)[] }[]; timing: { computeMs: number } };
  const { predict } = await ask<{ predict: { prediction: Prediction } }>(
    apiKey,
    'mutation ($input: PredictInput!) { predict(input: $input) { prediction { outputs { name data } timing { computeMs } } } }',
    { input: { model: 'studio/digits', inputs, idempotencyKey } },
  );
  const { outputs, timing } = predict.prediction;
  const output = (name: string) => outputs.find((one) => one.name === name)?.data ?? [];
  const label = Number(output('label')[0]);
  return { label, probability: Number(output('probabilities')[label]), computeMs: timing.computeMs };
}

type Transfer = { kind: string; direction: string; amount: { nanos: string; currency: string }; note: string | null };

/** What was used, and each side's entries in the ledger, in words. */
export async function billOf({ ask }: DemoServer, consumer: string, publisher: string): Promise<string[]> {
  const now = new Date();
  const from = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), 1)).toISOString();
  const to = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 1, 1)).toISOString();
  const transfers = 'transfers { nodes { kind direction amount { nanos currency } note } }';
  type Bill = {
    usage: { total: { predictions: string; units: string; amount: { nanos: string; currency: string } } };
    wallet: { balance: { nanos: string; currency: string } };
    transfers: { nodes: Transfer[] };
  };
  const {
    usage,
    wallet,
    transfers: paid,
  } = await ask<Bill>(
    consumer,
    `query ($from: DateTime!, $to: DateTime!) { usage(from: $from, to: $to) { total { predictions units amount { nanos currency } } }
      wallet { balance { nanos currency } } ${transfers} }`,
    { from, to },
  );
  const { transfers: got } = await ask<{ transfers: { nodes: Transfer[] } }>(publisher, `{ ${transfers} }`);
  const money = ({ nanos, currency }: { nanos: string; currency: string }) => `${(Number(nanos) / 1e9).toFixed(9)} ${currency}`;
  const lines = (who: string, nodes: Transfer[]) =>
    nodes
      .toReversed()
      .map(
        ({ kind, direction, amount, note }) =>
          `${who.padEnd(7)}${kind.padEnd(11)}${direction === 'IN' ? '+' : '−'}${money(amount)}  ${note ?? ''}`,
      );
  const { predictions, units, amount } = usage.total;
  return [
    `shop has made ${predictions} predictions of ${units} digits, the first 2 of a month free: ${money(amount)}.`,
    ...lines('shop', paid.nodes),
    ...lines('studio', got.nodes),
    `shop has ${money(wallet.balance)} left.`,
  ];
}
