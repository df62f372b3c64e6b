import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { expect, vi } from 'vitest';
import type { Principal } from '../../src/access/access.ts';
import { SCOPES, type Scope, scopesOf } from '../../src/access/principal.ts';
import { type App, createApp } from '../../src/app.ts';
import { asSystem, type Database } from '../../src/base/database.ts';
import { createLog } from '../../src/base/log.ts';
import { readConfig } from '../../src/config.ts';
import type { Role } from '../../src/generated/prisma/client.ts';
import { identityModel } from '../inference/tiny-models.ts';
import { asAdmin } from '../support/admin.ts';
import { Client } from '../support/client.ts';
import { openTestDatabase } from '../support/database.ts';

/** Stands in every text that only its owner may read. */
export const MARK = 'zq7';
const PASSWORD = 'correct horse battery';
const PRICE = 1_234_567_000n;

export type Person = { token: string; principal: Principal; email: string };

/** Who asks. `scopes` is empty for who has no credentials. */
export type Caller = { name: string; token: string | null; scopes: ReadonlySet<Scope>; isPerson: boolean; isOperator: boolean };

/**
 * A running marketplace of four tenants. `hidden` has published nothing and consumes; `shop` has published one model and keeps others for
 * itself; both are foreign to `stranger` and to the operator, who ask.
 */
export type World = AsyncDisposable & {
  app: App;
  db: Database;
  hidden: Person;
  shop: Person;
  stranger: Person;
  operator: Person;
  callers: Caller[];
  /** The model of `shop` that all may see. */
  publicModelId: string;
};

export async function openWorld(): Promise<World> {
  await using stack = new AsyncDisposableStack();
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-'));
  stack.defer(() => rm(dataDir, { recursive: true, force: true }));
  const db = stack.use(await openTestDatabase());
  const config = readConfig({ MERCATO_DATA: dataDir, MERCATO_PORT: '0', MERCATO_SEED: '0', MERCATO_DEVICES: 'cpu' });
  const app = stack.use(await createApp(config, { db, log: createLog('silent') }));
  const operator = await createOperator(app);
  const shop = await signUp(app, 'corner-shop', `${MARK}-keeper@example.com`);
  const hidden = await signUp(app, `${MARK}-tenant`, `${MARK}-owner@example.com`);
  const stranger = await signUp(app, 'stranger', 'stranger@example.com');
  const publicModelId = await stockShop(app, shop);
  await fillHidden(app, db, hidden, shop);
  await fillStranger(app, db, stranger);
  const callers = await callersOf(app, db, stranger, operator);
  const parts = stack.move();
  return { app, db, hidden, shop, stranger, operator, callers, publicModelId, [Symbol.asyncDispose]: () => parts.disposeAsync() };
}

async function personOf(app: App, token: string, email: string): Promise<Person> {
  const principal = await app.services.access.authenticate({ authorization: `Bearer ${token}` });
  if (principal === null) throw new Error('a fresh token is not accepted');
  return { token, principal, email };
}

async function signUp(app: App, tenantName: string, email: string): Promise<Person> {
  const { tokens } = await app.services.access.signUp({ email, password: PASSWORD, tenantName });
  return personOf(app, tokens.accessToken, email);
}

async function createOperator(app: App): Promise<Person> {
  const email = 'operator@example.com';
  await app.services.access.createOperator({ email, password: PASSWORD, tenantName: 'operator' });
  const { tokens } = await app.services.access.signIn({ email, password: PASSWORD, tenantName: null });
  return personOf(app, tokens.accessToken, email);
}

async function upload(app: App, { principal }: Person, bytes: Uint8Array): Promise<string> {
  const { upload, url } = await app.services.catalog.createUpload(principal.tenantId);
  await app.services.catalog.receiveUpload(url.slice(url.lastIndexOf('/') + 1), Readable.from([bytes]));
  return upload.id;
}

async function addModel(app: App, person: Person, name: string, files: Uint8Array[]): Promise<string> {
  const { catalog } = app.services;
  const { tenantId } = person.principal;
  const { id: modelId } = await catalog.createModel(tenantId, { name, summary: `${name} summary`, tags: [`${name}-tag`] });
  for (const file of files) await catalog.createModelVersion(tenantId, { modelId, uploadId: await upload(app, person, file) });
  return modelId;
}

/** One model published, with a later version that is not; one withdrawn; one never published. */
async function stockShop(app: App, shop: Person): Promise<string> {
  const { tenantId } = shop.principal;
  const publish = (modelId: string, plan: string) =>
    app.services.catalog.publishListing(tenantId, {
      modelId,
      modelVersionId: null,
      summary: null,
      tags: null,
      plans: [{ name: plan, unitPriceNanos: String(PRICE) }],
    });
  const sold = await addModel(app, shop, 'sold', [identityModel('FP32', ['N', 3])]);
  await publish(sold, 'counter');
  await app.services.catalog.createModelVersion(tenantId, {
    modelId: sold,
    uploadId: await upload(app, shop, identityModel('FP32', ['N', 4])),
  });
  await publish(await addModel(app, shop, `${MARK}-withdrawn`, [identityModel('FP32', ['N', 5])]), `${MARK}-plan`);
  await addModel(app, shop, `${MARK}-backroom`, [identityModel('FP32', ['N', 6])]);
  return sold;
}

const LEARNT = 'x,y\n1,a\n2,b\n3,a\n4,b\n5,a\n6,b\n';

/** A dataset, and what a run of it leads to: a version with its evaluation, an optimisation of it, a rule and its deployment. */
async function trainHidden(app: App, db: Database, hidden: Person): Promise<void> {
  const { training, catalog } = app.services;
  const { tenantId } = hidden.principal;
  const datasetId = await addDataset(app, db, hidden, `${MARK} rows`);
  const { id: modelId } = await catalog.createModel(tenantId, { name: `${MARK}-trained` });
  const rule = { maxAccuracyDrop: 1, minSpeedup: 0 };
  await training.createDeploymentRule(tenantId, { modelId, alias: 'live', optimizations: ['FP16'], rule });
  await training.createTrainingRun(tenantId, {
    datasetId,
    modelId,
    task: 'CLASSIFICATION',
    targets: ['y'],
    layers: [{ dense: { units: 80 } }, { dense: { units: 2, activation: 'SOFTMAX' } }],
    loss: 'SPARSE_CROSS_ENTROPY',
    optimizer: { adam: { learningRate: 0.01, beta1: 0.9, beta2: 0.999 } },
    weightDecay: 0,
    epochs: 2,
    batchRows: 2,
    seed: 1,
    validationShare: 0.2,
    testShare: 0.4,
  });
  await ended(db, tenantId, 4);
}

async function addDataset(app: App, db: Database, person: Person, name: string): Promise<string> {
  const { tenantId } = person.principal;
  const uploadId = await upload(app, person, Buffer.from(LEARNT));
  const { id } = await app.services.training.createDataset(tenantId, { name, format: 'CSV', uploadId, badRowsMax: 0 });
  await ended(db, tenantId, 1);
  return id;
}

/** Waits until that many works have been made and all have succeeded. */
async function ended(db: Database, tenantId: string, count: number): Promise<void> {
  const succeeded = async () => {
    const works = await asAdmin(db, (tx) => tx.work.findMany({ where: { tenantId } }));
    expect(
      works.map(({ kind, state, error }) => `${kind} ${state} ${JSON.stringify(error)}`).filter((one) => !one.includes('SUCCEEDED')),
    ).toEqual([]);
    expect(works.length).toBe(count);
  };
  await vi.waitFor(succeeded, { timeout: 60_000, interval: 100 });
}

/** Everything that a tenant can have. */
async function fillHidden(app: App, db: Database, hidden: Person, shop: Person): Promise<void> {
  const { access, billing, catalog } = app.services;
  const { tenantId } = hidden.principal;
  await asSystem(db, (tx) => tx.tenant.update({ where: { id: tenantId }, data: { displayName: `${MARK} display name` } }));
  await addModel(app, hidden, `${MARK}-draft`, [identityModel('FP32', ['N', 7]), Buffer.from('no model')]);
  await upload(app, hidden, Buffer.from('waiting'));
  await trainHidden(app, db, hidden);
  await catalog.createUpload(tenantId);
  const amount = { amountNanos: 7_777_123_456_789n, note: `${MARK} note`, idempotencyKey: `${MARK} credit` };
  await billing.addCredit({ id: tenantId }, amount);
  const { secret } = await access.createApiKey(hidden.principal, { name: `${MARK} key`, scopes: ['model:predict'], expiresAt: null });
  const revoked = await access.createApiKey(hidden.principal, { name: `${MARK} old key`, scopes: [...SCOPES], expiresAt: null });
  await access.revokeApiKey(hidden.principal, revoked.apiKey.id);
  await access.createApiKeyOnce(
    hidden.principal,
    { name: `${MARK} keyed`, scopes: ['model:predict'], expiresAt: null },
    `${MARK} mutation`,
  );
  const plans = await asAdmin(db, (tx) => tx.planVersion.findMany({ where: { publisherTenantId: shop.principal.tenantId } }));
  for (const plan of plans) await catalog.subscribe(tenantId, plan.id);
  const limit = { subject: 'TENANT', subjectId: null, measure: 'UNITS', window: 'MONTH', burstUnits: null, hard: false } as const;
  await app.services.usage.createLimit(tenantId, { ...limit, name: `${MARK}-limit`, amount: 1n, alertPercents: [100] });
  using client = new Client(app.url);
  for (const token of [secret, hidden.token]) await predictSold(client, token, `${MARK} prediction of ${token.slice(0, 2)}`);
  await asAdmin(db, (tx) => tx.$executeRaw`update listing set state = 'WITHDRAWN' where handle = ${`corner-shop/${MARK}-withdrawn`}`);
}

async function fillStranger(app: App, db: Database, stranger: Person): Promise<void> {
  const { tenantId } = stranger.principal;
  await app.services.billing.addCredit({ id: tenantId }, { amountNanos: 10n ** 12n, note: 'hello', idempotencyKey: 'stranger' });
  await addModel(app, stranger, 'own', []);
  await upload(app, stranger, Buffer.from('some file'));
  await addDataset(app, db, stranger, 'own rows');
}

const PREDICT = 'mutation ($input: PredictInput!) { predict(input: $input) { prediction { id } } }';

/** Two rows of the shop's public model. */
async function predictSold(client: Client, token: string, idempotencyKey: string): Promise<void> {
  const inputs = [{ name: 'x', datatype: 'FP32', shape: [2, 3], data: [1, 2, 3, 4, 5, 6] }];
  await client.ask(PREDICT, { input: { model: 'corner-shop/sold', inputs, idempotencyKey } }, token);
}

/** Nobody; the stranger in each role, with a key of all scopes, and with a key of each scope; the operator. */
async function callersOf(app: App, db: Database, stranger: Person, operator: Person): Promise<Caller[]> {
  const { access } = app.services;
  const all = scopesOf('OWNER');
  const callers: Caller[] = [
    { name: 'nobody', token: null, scopes: new Set(), isPerson: false, isOperator: false },
    { name: 'the OWNER of another tenant', token: stranger.token, scopes: all, isPerson: true, isOperator: false },
    { name: 'the operator', token: operator.token, scopes: all, isPerson: true, isOperator: true },
  ];
  for (const role of ['ADMIN', 'DEVELOPER', 'BILLING', 'VIEWER'] satisfies Role[]) {
    const email = `${role.toLowerCase()}@example.com`;
    const { principal } = await signUp(app, `of-${role.toLowerCase()}`, email);
    const { tenantId } = stranger.principal;
    await asSystem(db, (tx) => tx.member.create({ data: { tenantId, userId: principal.userId ?? '', role } }));
    const { tokens } = await access.signIn({ email, password: PASSWORD, tenantName: 'stranger' });
    callers.push({
      name: `a ${role} of another tenant`,
      token: tokens.accessToken,
      scopes: scopesOf(role),
      isPerson: true,
      isOperator: false,
    });
  }
  for (const scopes of [[...SCOPES], ...SCOPES.map((scope) => [scope])]) {
    const name = scopes.length > 1 ? "another tenant's key of all scopes" : `another tenant's key of ${scopes[0]}`;
    const { secret } = await access.createApiKey(stranger.principal, { name, scopes, expiresAt: null });
    callers.push({ name, token: secret, scopes: new Set(scopes), isPerson: false, isOperator: false });
  }
  return callers;
}
