import type { Invalidations } from '../access/access.ts';
import { asTenant, type Database, type Tx } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import { newId } from '../base/ids.ts';
import type { ModelAlias } from '../generated/prisma/client.ts';
import type { Inference } from '../inference/inference.ts';
import { parseAlias } from './input.ts';
import { findModel, found } from './models.ts';
import { runnable } from './runnable.ts';
import { LIVE, type ModelView, toVersionView } from './views.ts';

/** Who moves an alias: one of the three. */
export type Mover = { userId?: string | null; apiKeyId?: string | null; ruleId?: string | null };

type Options = { db: Database; inference: Inference; invalidations: Invalidations };
type Move = { tenantId: string; modelId: string; alias: string; versionId: string; by: Mover };
type Listing = { id: string; state: string };

export function createAliases({ db, inference, invalidations }: Options) {
  /** As `Catalog.promoteVersion`. Loaded before anybody is sent there, so that no call waits for it. */
  async function promote(tenantId: string, input: { versionId: string; alias: string }, by: Mover): Promise<ModelView> {
    const alias = parseAlias('alias', input.alias);
    const version = await asTenant(db, tenantId, async (tx) =>
      found(await tx.modelVersion.findFirst({ where: { id: input.versionId, tenantId } })),
    );
    const { state, modelId } = version;
    if (state !== 'READY')
      throw new MercatoError('CONFLICT', 'Only a READY version can be promoted.', { field: 'versionId', given: state });
    const view = toVersionView(version, '');
    if (view.signature !== null) await inference.load(runnable(view, view.signature));
    return change(tenantId, modelId, (tx) => moveAlias(tx, { tenantId, modelId, alias, versionId: version.id, by }));
  }

  /** As `Catalog.rollbackVersion`. */
  async function rollback(tenantId: string, input: { modelId: string; alias: string }, by: Mover): Promise<ModelView> {
    const alias = parseAlias('alias', input.alias);
    const { modelId } = input;
    const target = await asTenant(db, tenantId, (tx) => undoable(tx, tenantId, modelId, alias));
    const version = await asTenant(db, tenantId, (tx) => tx.modelVersion.findUniqueOrThrow({ where: { id: target.fromVersionId } }));
    const view = toVersionView(version, '');
    if (view.signature !== null) await inference.load(runnable(view, view.signature));
    return change(tenantId, modelId, async (tx) => {
      const { id: undoesId, fromVersionId } = await undoable(tx, tenantId, modelId, alias);
      const before = await point(tx, { tenantId, modelId, alias, versionId: fromVersionId });
      await record(tx, { tenantId, modelId, alias, kind: 'ROLLBACK', fromVersionId: before, toVersionId: fromVersionId, undoesId }, by);
    });
  }

  /** As `Catalog.deleteAlias`. */
  async function remove(tenantId: string, input: { modelId: string; alias: string }, by: Mover): Promise<ModelView> {
    const alias = parseAlias('alias', input.alias);
    if (alias === LIVE) throw badInput('alias', 'live cannot be deleted; it can be moved.', { given: alias, expected: 'another alias' });
    const { modelId } = input;
    return change(tenantId, modelId, async (tx, listing) => {
      const before = found(await aliasTarget(tx, tenantId, modelId, alias));
      const [plan] = await plansSelling(tx, listing.id, alias);
      if (plan !== undefined)
        throw new MercatoError('CONFLICT', `The plan ${plan.name} sells this alias.`, { field: 'alias', given: alias });
      await tx.modelAlias.delete({ where: { modelId_name: { modelId, name: alias } } });
      await record(tx, { tenantId, modelId, alias, kind: 'DELETE', fromVersionId: before, toVersionId: null, undoesId: null }, by);
    });
  }

  /** Changes under the lock of the model's listing, and returns when every server process knows. */
  async function change(tenantId: string, modelId: string, fn: (tx: Tx, listing: Listing) => Promise<void>): Promise<ModelView> {
    const { model, seq } = await asTenant(db, tenantId, async (tx) => {
      const [listing] = await tx.$queryRaw<Listing[]>`
        select id, state::text state from listing
        where model_id = ${modelId}::uuid and publisher_tenant_id = ${tenantId}::uuid for update`;
      const { id } = found(listing ?? null);
      await fn(tx, found(listing ?? null));
      const view = found(await findModel(tx, tenantId, modelId));
      return { model: view, seq: await invalidations.publish(tx, 'listing', [id]) };
    });
    await invalidations.confirmed(seq);
    return model;
  }

  return { promote, rollback, remove };
}

/** Points an alias to a version; the caller holds the lock of the listing. Where it points there already nothing is recorded. */
export async function moveAlias(tx: Tx, { tenantId, modelId, alias, versionId, by }: Move): Promise<void> {
  const before = await point(tx, { tenantId, modelId, alias, versionId });
  if (before === versionId) return;
  await record(tx, { tenantId, modelId, alias, kind: 'PROMOTE', fromVersionId: before, toVersionId: versionId, undoesId: null }, by);
}

/** Gives what it pointed to before. In a published model, what an alias points to is offered with it. */
async function point(tx: Tx, { tenantId, modelId, alias, versionId }: Omit<Move, 'by'>): Promise<string | null> {
  const before = await aliasTarget(tx, tenantId, modelId, alias);
  await tx.$executeRaw`
    insert into model_alias (model_id, name, tenant_id, version_id) values (${modelId}::uuid, ${alias}, ${tenantId}::uuid, ${versionId}::uuid)
    on conflict (model_id, name) do update set version_id = excluded.version_id, moved_at = mercato_now()`;
  await offerAliased(tx, modelId);
  return before;
}

/** Shows what the aliases of a published model point to. */
export async function offerAliased(tx: Tx, modelId: string): Promise<void> {
  await tx.$executeRaw`
    update model_version v set published_at = mercato_now() where v.published_at is null and exists (
      select from model_alias a join listing l on l.model_id = a.model_id
      where a.version_id = v.id and a.model_id = ${modelId}::uuid and l.state = 'PUBLISHED')`;
}

/** The version that an alias of a tenant's own model points to; null: there is no such alias. */
export async function aliasTarget(tx: Tx, tenantId: string, modelId: string, alias: string): Promise<string | null> {
  return (await tx.modelAlias.findFirst({ where: { modelId, tenantId, name: alias } }))?.versionId ?? null;
}

/** Of each model, by name. For a loader; row-level security decides who sees which. */
export async function aliasesByModel(tx: Tx, modelIds: readonly string[]): Promise<Map<string, ModelAlias[]>> {
  const rows = await tx.modelAlias.findMany({ where: { modelId: { in: [...modelIds] } }, orderBy: { name: 'asc' } });
  return Map.groupBy(rows, (row) => row.modelId);
}

/** Plans on offer whose newest version sells the alias. */
function plansSelling(tx: Tx, listingId: string, alias: string): Promise<{ name: string }[]> {
  return tx.$queryRaw<{ name: string }[]>`
    select p.name from plan p
    cross join lateral (select alias from plan_version where plan_id = p.id order by number desc limit 1) v
    where p.listing_id = ${listingId}::uuid and not p.retired and v.alias = ${alias}`;
}

/** The newest promotion that was not undone. @throws NOT_FOUND (no such model), CONFLICT where nothing was there before it */
async function undoable(tx: Tx, tenantId: string, modelId: string, alias: string): Promise<{ id: string; fromVersionId: string }> {
  found(await tx.model.findFirst({ where: { id: modelId, tenantId } }));
  const [move] = await tx.$queryRaw<{ id: string; fromVersionId: string | null }[]>`
    select m.id, m.from_version_id "fromVersionId" from alias_move m
    where m.model_id = ${modelId}::uuid and m.tenant_id = ${tenantId}::uuid and m.alias = ${alias} and m.kind = 'PROMOTE'
      and not exists (select from alias_move u where u.undoes_id = m.id)
    order by m.id desc limit 1`;
  if (move?.fromVersionId) return { id: move.id, fromVersionId: move.fromVersionId };
  throw new MercatoError('CONFLICT', 'The alias pointed to nothing before.', { field: 'alias', given: alias });
}

type Recorded = {
  tenantId: string;
  modelId: string;
  alias: string;
  kind: 'PROMOTE' | 'ROLLBACK' | 'DELETE';
  fromVersionId: string | null;
  toVersionId: string | null;
  undoesId: string | null;
};

async function record(tx: Tx, move: Recorded, { userId = null, apiKeyId = null, ruleId = null }: Mover): Promise<void> {
  await tx.aliasMove.create({ data: { id: newId(), ...move, byUserId: userId, byApiKeyId: apiKeyId, byRuleId: ruleId } });
}
