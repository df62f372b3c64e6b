import { randomBytes } from 'node:crypto';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Access, Principal } from '../access/access.ts';
import { asTenant, type Database } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import type { Billing } from '../billing/billing.ts';
import type { Catalog } from '../catalog/catalog.ts';

type SignIn = { email: string; password: string };

/** What `npm start` prints, kept in `demo.json` (0600) of the data directory. */
export type Demo = { operator: SignIn; demo: SignIn; apiKey: string | null };

export type SeedServices = { db: Database; access: Access; catalog: Catalog; billing: Billing };

const PUBLISHER = 'mercato';
const CONSUMER = 'demo';
const MODEL = 'digits';
const CREDIT_NANOS = 100n * 1_000_000_000n;
const MODEL_DIR = fileURLToPath(new URL(`../../models/${MODEL}`, import.meta.url));

/**
 * Makes the operator, whose tenant `mercato` offers `digits`, and a consumer `demo` with credit, a subscription and an API key. Each step is
 * skipped where it was done, so a start that was cut off is completed by the next. Null: it was seeded with another `demo.json`.
 */
export async function seed(dataDir: string, services: SeedServices): Promise<Demo | null> {
  const { access, billing } = services;
  const path = join(dataDir, 'demo.json');
  const demo = (await readDemo(path)) ?? {
    operator: { email: 'operator@mercato.localhost', password: randomBytes(15).toString('base64url') },
    demo: { email: 'demo@mercato.localhost', password: randomBytes(15).toString('base64url') },
    apiKey: null,
  };
  if (demo.apiKey !== null) return demo;
  await writeDemo(path, demo);
  await access.createOperator({ ...demo.operator, tenantName: PUBLISHER });
  const operator = await signIn(access, demo.operator, PUBLISHER).catch((error: unknown) => {
    if (error instanceof MercatoError && error.code === 'UNAUTHENTICATED') return null;
    throw error;
  });
  if (operator === null) {
    // Seeded before, from another data directory: its passwords are not ours to know.
    await rm(path, { force: true });
    return null;
  }
  const consumer = await signIn(access, demo.demo, CONSUMER).catch(async () => {
    await access.signUp({ ...demo.demo, tenantName: CONSUMER });
    return signIn(access, demo.demo, CONSUMER);
  });
  await billing.addCredit({ name: CONSUMER }, { amountNanos: CREDIT_NANOS, note: 'Welcome credit', idempotencyKey: 'seed' });
  await offer(services, operator, consumer);
  const { secret } = await access.createApiKey(consumer, {
    name: 'demo',
    scopes: ['model:predict', 'model:read', 'usage:read', 'billing:read'],
    expiresAt: null,
  });
  const complete = { ...demo, apiKey: secret };
  await writeDemo(path, complete);
  return complete;
}

/** A digit drawn by the project, as base64 of UINT8 [1, 28, 28], and what it shows. */
export async function exampleDigit(): Promise<{ base64: string; expected: number }> {
  const { image, expected }: { image: number[][]; expected: number } = JSON.parse(await readFile(join(MODEL_DIR, 'example.json'), 'utf8'));
  return { base64: Buffer.from(image.flat()).toString('base64'), expected };
}

async function offer({ db, catalog }: SeedServices, operator: Principal, consumer: Principal): Promise<void> {
  const handle = `${PUBLISHER}/${MODEL}`;
  let model = await asTenant(db, operator.tenantId, (tx) => catalog.model(tx, operator.tenantId, handle));
  if (!model?.published) {
    const imported = await catalog.importShipped(operator.tenantId, MODEL, MODEL_DIR);
    model = await catalog.publishListing(operator.tenantId, {
      modelId: imported.modelId,
      modelVersionId: null,
      summary: 'Reads a handwritten digit: 28 × 28 grey pixels in, label and probabilities out.',
      tags: ['vision', 'classification', 'mnist'],
      plans: [
        { name: 'free', unitPriceNanos: '0', quotaUnitsPerMonth: '1000', requestsPerMinute: 60, burst: 10 },
        { name: 'standard', unitPriceNanos: '20000' },
      ],
    });
  }
  const subscribed = await asTenant(db, consumer.tenantId, (tx) =>
    catalog.subscriptions(tx, consumer.tenantId, { first: 100, afterId: null }),
  );
  const plan = model.plans.find(({ name }) => name === 'standard');
  if (plan && !subscribed.nodes.some(({ model: { handle: h }, state }) => h === handle && state === 'ACTIVE')) {
    await catalog.subscribe(consumer.tenantId, plan.id);
  }
}

async function signIn(access: Access, credentials: SignIn, tenantName: string): Promise<Principal> {
  const { tokens } = await access.signIn({ ...credentials, tenantName });
  const principal = await access.authenticate({ authorization: `Bearer ${tokens.accessToken}`, apiKey: undefined });
  if (principal === null) throw new Error('a fresh access token is not accepted');
  return principal;
}

async function readDemo(path: string): Promise<Demo | null> {
  const text = await readFile(path, 'utf8').catch(() => null);
  return text === null ? null : (JSON.parse(text) as Demo);
}

/** Whole or not at all: a start that dies while writing must not lose the passwords. */
async function writeDemo(path: string, demo: Demo): Promise<void> {
  await writeFile(`${path}.new`, `${JSON.stringify(demo, null, 2)}\n`, { mode: 0o600 });
  await rename(`${path}.new`, path);
}
