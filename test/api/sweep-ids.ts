import { randomBytes } from 'node:crypto';
import { globalId, type NodeType } from '../../src/base/ids.ts';
import { asAdmin } from '../support/admin.ts';
import { needlesOf, type Rows, rowsOf, textsIn } from '../support/rows.ts';
import type { World } from './sweep-world.ts';

/** The types that implement Node, and the table of each. A plan's object is one of its versions. */
export const TABLES = {
  Tenant: 'tenant',
  User: 'app_user',
  ApiKey: 'api_key',
  Model: 'model',
  ModelVersion: 'model_version',
  Plan: 'plan_version',
  Subscription: 'subscription',
  Upload: 'upload',
  Transfer: 'transfer',
  UsageLimit: 'usage_limit',
  UsageAlert: 'usage_alert',
  Dataset: 'dataset',
  TrainingRun: 'training_run',
  Optimization: 'optimization',
  DeploymentRule: 'deployment_rule',
  Deployment: 'deployment',
} as const satisfies Partial<Record<NodeType, string>>;
export type Kind = keyof typeof TABLES;

/** What a caller could send: ids and names of things that are there but foreign, or of things that are nowhere. */
export type Ids = Record<Kind, string[]> & { handle: string[]; tenantName: string[]; email: string[]; key: string[]; version: string[] };

export type Foreign = { there: Ids; nowhere: Ids; needles: string[]; rows: () => Promise<Rows> };

/** A background task of the server may change these at any time. */
const RESTLESS = ['lease', 'usage_counter', 'limit_counter', 'account', 'api_key_use', 'rate_limit'];

/** What of `hidden` and `shop` nobody else may see, and ids beside it that name nothing. */
export async function foreignOf(world: World): Promise<Foreign> {
  const owners = [world.hidden, world.shop].map((person) => person.principal.tenantId);
  const others = [world.stranger, world.operator].map((person) => person.principal.tenantId);
  const all = await asAdmin(world.db, (tx) => rowsOf(tx, owners));
  const known = await asAdmin(world.db, (tx) => rowsOf(tx, others));
  const publicRows = publicOf(world, all);
  const shown = textsIn([...publicRows, ...[...known.values()].flat()]);
  const secret = new Set([...textsIn(Object.fromEntries(all))].filter((text) => !shown.has(text)));
  const ids = (kind: Kind) => (all.get(TABLES[kind]) ?? []).map((row) => String(row.id)).filter((id) => secret.has(id));
  const texts = (table: string, column: string) =>
    (all.get(table) ?? []).map((row) => String(row[column])).filter((text) => secret.has(text));
  const kinds = Object.keys(TABLES) as Kind[];
  const uuids = Object.fromEntries(kinds.map((kind) => [kind, ids(kind)])) as Record<Kind, string[]>;
  const names = {
    handle: texts('listing', 'handle'),
    tenantName: texts('tenant', 'name'),
    email: texts('app_user', 'email'),
    key: texts('idempotency_key', 'key'),
  };
  const mapped = (map: (text: string) => string, of: Record<string, string[]>) =>
    Object.fromEntries(Object.entries(of).map(([kind, list]) => [kind, list.map(map)]));
  return {
    there: { ...uuids, ...names, version: ['corner-shop/sold@2', 'corner-shop/sold@next'] },
    nowhere: { ...mapped(beside, uuids), ...mapped(letters, names), version: ['corner-shop/sold@9', 'corner-shop/sold@none'] } as Ids,
    needles: needlesOf(secret),
    rows: async () => {
      const rows = await asAdmin(world.db, (tx) => rowsOf(tx, owners));
      for (const table of RESTLESS) rows.delete(table);
      return rows;
    },
  };
}

/** The public catalogue's rows: the shop itself, its published model, the version on offer, and the plans. */
function publicOf({ shop, publicModelId }: World, all: Rows): Record<string, unknown>[] {
  const pick = (table: string, test: (row: Record<string, unknown>) => boolean) => (all.get(table) ?? []).filter(test);
  const listings = pick('listing', (row) => row.model_id === publicModelId);
  const plans = pick('plan', (row) => row.listing_id === listings[0]?.id);
  return [
    ...pick('tenant', (row) => row.id === shop.principal.tenantId),
    ...pick('model', (row) => row.id === publicModelId),
    ...listings,
    ...pick('model_version', (row) => row.model_id === publicModelId && row.published_at !== null),
    ...pick('model_alias', (row) => row.model_id === publicModelId && row.name === 'live'),
    ...plans,
    ...pick('plan_version', (row) => plans.some((plan) => plan.id === row.plan_id)),
  ];
}

/** An id that sorts where the given one does. */
function beside(id: string): string {
  return id.slice(0, -12) + randomBytes(6).toString('hex');
}

/** A name of the same form and length. */
function letters(name: string): string {
  return name.replaceAll(/[a-z0-9]/g, () => 'abcdefghijkmnpqrstuvwxyz'[randomBytes(1).readUInt8() % 24] ?? 'a');
}

/** Every string of `ids`, in each form in which a request sends it or an answer repeats it. */
export function spellings(ids: Ids): string[] {
  return needlesOf(Object.values(ids).flat()).sort((a, b) => b.length - a.length);
}

export const cursor = (id: string) => Buffer.from(id).toString('base64url');
export const global = (kind: Kind, ids: Ids) => ids[kind].map((id) => globalId(kind, id));
