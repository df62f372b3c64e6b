import type { Invalidations } from '../access/access.ts';
import { asTenant, type Database, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { newId } from '../base/ids.ts';
import { aliasTarget, type Mover, moveAlias, offerAliased } from './aliases.ts';
import { type ParsedPlan, type PlanInput, parsePlans, parseSummary, parseTags } from './input.ts';
import { findModel, found } from './models.ts';
import { words } from './search.ts';
import { LIVE, type ModelView } from './views.ts';

export type PublishInput = {
  modelId: string;
  /** Null: the one on offer; before the first publishing, the newest READY one. */
  modelVersionId: string | null;
  plans: readonly PlanInput[];
  /** Null: unchanged. */
  summary: string | null;
  tags: readonly string[] | null;
};

type Offer = { id: string; handle: string; summary: string; tags: string[] };

/** As `Catalog.publishListing`. */
export async function publishListing(
  { db, invalidations, currency }: { db: Database; invalidations: Invalidations; currency: string },
  tenantId: string,
  input: PublishInput,
  by: Mover,
): Promise<ModelView> {
  const plans = parsePlans(input.plans, currency);
  const summary = input.summary === null ? null : parseSummary(input.summary);
  const tags = input.tags === null ? null : parseTags(input.tags);
  const { model, seq } = await asTenant(db, tenantId, async (tx) => {
    const listing = await lockListing(tx, tenantId, input.modelId);
    const versionId = await readyVersion(tx, tenantId, input);
    await offer(tx, { ...listing, summary: summary ?? listing.summary, tags: tags ?? listing.tags });
    await moveAlias(tx, { tenantId, modelId: input.modelId, alias: LIVE, versionId, by });
    await offerAliased(tx, input.modelId);
    for (const [index, plan] of plans.entries())
      await offerPlan(tx, tenantId, { listingId: listing.id, modelId: input.modelId }, plan, index);
    const names = plans.map((plan) => plan.name);
    await tx.plan.updateMany({
      where: { listingId: listing.id, publisherTenantId: tenantId, name: { notIn: names } },
      data: { retired: true },
    });
    const view = found(await findModel(tx, tenantId, input.modelId));
    return { model: view, seq: await invalidations.publish(tx, 'listing', [listing.id]) };
  });
  await invalidations.confirmed(seq);
  return model;
}

/** Publishing the same model twice at once: one after the other. */
async function lockListing(tx: Tx, tenantId: string, modelId: string): Promise<Offer> {
  const [listing] = await tx.$queryRaw<Offer[]>`
    select id, handle, summary, tags from listing
    where model_id = ${modelId}::uuid and publisher_tenant_id = ${tenantId}::uuid for update`;
  return found(listing ?? null);
}

async function readyVersion(tx: Tx, tenantId: string, { modelId, modelVersionId }: PublishInput): Promise<string> {
  if (modelVersionId === null) {
    const live = await aliasTarget(tx, tenantId, modelId, LIVE);
    if (live !== null) return live;
    const newest = await tx.modelVersion.findFirst({ where: { tenantId, modelId, state: 'READY' }, orderBy: { number: 'desc' } });
    if (newest) return newest.id;
    throw new MercatoError('CONFLICT', 'The model has no READY version.', { field: 'modelVersionId' });
  }
  const version = found(await tx.modelVersion.findFirst({ where: { id: modelVersionId, tenantId, modelId } }));
  if (version.state === 'READY') return version.id;
  throw new MercatoError('CONFLICT', 'Only a READY version can be published.', { field: 'modelVersionId', given: version.state });
}

async function offer(tx: Tx, { id, handle, summary, tags }: Offer): Promise<void> {
  const [name, marks, text] = [handle, tags.join(' '), summary].map((part) => words(part).join(' '));
  await tx.$executeRaw`
    update listing set state = 'PUBLISHED', summary = ${summary}, tags = ${tags}::text[],
      published_at = coalesce(published_at, mercato_now()),
      search = setweight(to_tsvector('simple', ${name}), 'A') || setweight(to_tsvector('simple', ${marks}), 'B')
        || setweight(to_tsvector('simple', ${text}), 'C')
    where id = ${id}::uuid`;
}

/** Known by its name; a version more only where the terms differ from the newest. */
async function offerPlan(
  tx: Tx,
  tenantId: string,
  { listingId, modelId }: { listingId: string; modelId: string },
  { name, terms }: ParsedPlan,
  index: number,
): Promise<void> {
  if (terms.alias !== null && (await aliasTarget(tx, tenantId, modelId, terms.alias)) === null) {
    throw new MercatoError('CONFLICT', `The model has no alias ${terms.alias}.`, { field: `plans[${index}].alias`, given: terms.alias });
  }
  const [plan] = await tx.$queryRaw<{ id: string }[]>`
    insert into plan (id, publisher_tenant_id, listing_id, name) values (${newId()}::uuid, ${tenantId}::uuid, ${listingId}::uuid, ${name})
    on conflict (listing_id, name) do update set retired = false returning id`;
  const planId = found(plan ?? null).id;
  await tx.$executeRaw`
    with offered as (select ${terms.currency}::text as currency, ${terms.unitPriceNanos}::bigint as unit_price_nanos,
      ${terms.freeUnits}::bigint as free_units, ${terms.quotaUnits}::bigint as quota_units,
      ${terms.requestsPerMinute}::int as requests_per_minute, ${terms.burst}::int as burst, ${terms.priority}::int as priority, ${terms.alias}::text as alias),
    newest as (select number, currency, unit_price_nanos, free_units, quota_units, requests_per_minute, burst, priority, alias
      from plan_version where plan_id = ${planId}::uuid order by number desc limit 1)
    insert into plan_version (id, publisher_tenant_id, plan_id, number, currency, unit_price_nanos, free_units, quota_units,
      requests_per_minute, burst, priority, alias)
    select ${newId()}::uuid, ${tenantId}::uuid, ${planId}::uuid, coalesce(n.number, 0) + 1, o.currency, o.unit_price_nanos, o.free_units,
      o.quota_units, o.requests_per_minute, o.burst, o.priority, o.alias
    from offered o left join newest n on true
    where (o.currency, o.unit_price_nanos, o.free_units, o.quota_units, o.requests_per_minute, o.burst, o.priority, o.alias) is distinct from
      (n.currency, n.unit_price_nanos, n.free_units, n.quota_units, n.requests_per_minute, n.burst, n.priority, n.alias)`;
}
