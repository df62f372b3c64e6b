import type { Invalidations } from '../access/access.ts';
import { asTenant, type Database, type Tx } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import type { Listing, ModelVersion } from '../generated/prisma/client.ts';
import type { RunnableVersion, Signature } from '../inference/inference.ts';
import { createMemory } from './entitlement-memory.ts';
import { parseHandle } from './input.ts';
import { runnable } from './runnable.ts';
import { type Suspended, suspendedFor } from './suspensions.ts';
import { LIVE, type ModelVersionView, type PlanTerms, planView, toVersionView, visibleListing } from './views.ts';

/** What one tenant's calls of one model may rely on. `subscriptionId` and `terms` are null for a publisher's own calls, which are free. */
export type Entitlement = {
  consumerTenantId: string;
  publisherTenantId: string;
  listingId: string;
  modelId: string;
  /** `tenant/name`. */
  handle: string;
  subscriptionId: string | null;
  terms: PlanTerms | null;
  version: ModelVersionView;
  signature: Signature;
  runnable: RunnableVersion;
  /** What keeps this tenant from calling the version, or did until a moment ago. */
  suspended: readonly Suspended[];
  /** The deadline of a call that names none. */
  deadlineMs: number;
};

const MEMORY_MAX = 10_000;

export function createEntitlements({ db, invalidations }: { db: Database; invalidations: Invalidations }) {
  const memory = createMemory<Entitlement>(MEMORY_MAX);
  invalidations.on('listing', (id) => memory.forget((known) => known.listingId === id));
  invalidations.on('subscription', (id) => memory.forget((known) => known.consumerTenantId === id));

  /** As `Catalog.entitlement`. */
  function of({ tenantId }: { tenantId: string }, model: string): Entitlement | Promise<Entitlement> {
    const key = `${tenantId} ${model}`;
    const load = () => readEntitlement(db, tenantId, model);
    // Out of touch with the database, neither memory nor a load that began before can be relied on.
    if (!invalidations.isFresh()) return memory.fetch(key, load);
    return memory.get(key) ?? memory.load(key, load);
  }

  return { of };
}

async function readEntitlement(db: Database, tenantId: string, model: string): Promise<Entitlement> {
  const named = parseHandle(model);
  if (named === null) {
    throw badInput('model', 'model must be a handle.', {
      given: model.slice(0, 120).toWellFormed(),
      expected: 'tenant/name, tenant/name@version or tenant/name@alias',
    });
  }
  return asTenant(db, tenantId, async (tx) => {
    const listing = await tx.listing.findFirst({ where: { handle: named.handle, ...visibleListing(tenantId) } });
    if (listing === null) throw notFound(`No model ${named.handle} is visible to you; \`models\` finds those that are.`);
    const isOwn = listing.publisherTenantId === tenantId;
    const asked = await askedVersion(tx, listing, isOwn ? tenantId : null, named);
    const right = isOwn ? { subscriptionId: null, terms: null } : await subscribed(tx, tenantId, listing);
    const version = await soldVersion(tx, listing, asked, right.terms?.alias ?? null, named);
    const view = toVersionView(version, listing.handle);
    if (view.signature === null) throw new Error(`version ${view.id} is READY without a signature`);
    return {
      consumerTenantId: tenantId,
      publisherTenantId: listing.publisherTenantId,
      listingId: listing.id,
      modelId: listing.modelId,
      handle: listing.handle,
      ...right,
      version: view,
      signature: view.signature,
      runnable: runnable(view, view.signature),
      suspended: await suspendedFor(tx, tenantId, view.id),
      deadlineMs: view.deadlineMs,
    };
  });
}

type Named = { number: number | null; alias: string | null };

/** A READY version; to others than the owner a published one. With neither number nor alias what `live` points to, or before that the owner's newest. */
async function askedVersion(tx: Tx, listing: Listing, ownerId: string | null, { number, alias }: Named): Promise<ModelVersion> {
  const { modelId, handle } = listing;
  const visible = { modelId, state: 'READY', ...(ownerId === null ? { publishedAt: { not: null } } : { tenantId: ownerId }) } as const;
  const which = ownerId === null ? 'published' : 'READY';
  if (number !== null) {
    const numbered = await tx.modelVersion.findFirst({ where: { ...visible, number } });
    if (numbered === null) throw notFound(`No ${which} version is named ${handle}@${number}.`);
    return numbered;
  }
  const aliased = await tx.modelVersion.findFirst({ where: { ...visible, aliases: { some: { name: alias ?? LIVE } } } });
  if (aliased !== null) return aliased;
  if (alias !== null) throw notFound(`No ${which} version is named ${handle}@${alias}.`);
  if (ownerId === null) throw notFound(`${handle} has no published version.`);
  const newest = await tx.modelVersion.findFirst({ where: visible, orderBy: { number: 'desc' } });
  if (newest === null) throw notFound(`${handle} has no READY version yet.`);
  return newest;
}

function notFound(message: string): MercatoError {
  return new MercatoError('NOT_FOUND', message, { field: 'model' });
}

/** A plan that sells an alias sells what that points to, and nothing else of the model. */
async function soldVersion(tx: Tx, { modelId }: Listing, asked: ModelVersion, sold: string | null, named: Named): Promise<ModelVersion> {
  if (sold === null) return asked;
  const where = { modelId, state: 'READY', publishedAt: { not: null }, aliases: { some: { name: sold } } } as const;
  const version = await tx.modelVersion.findFirst({ where });
  if (version === null) throw notFound(`Your plan sells the alias ${sold} of this model, and it points to no published version.`);
  if (version.id === asked.id || (named.number === null && named.alias === null)) return version;
  throw new MercatoError('NOT_SUBSCRIBED', `Your plan sells the alias ${sold} of this model alone.`);
}

async function subscribed(
  tx: Tx,
  consumerTenantId: string,
  { id, handle }: Listing,
): Promise<{ subscriptionId: string; terms: PlanTerms }> {
  const subscription = await tx.subscription.findFirst({
    where: { consumerTenantId, listingId: id, state: 'ACTIVE' },
    include: { planVersion: { include: { plan: true } } },
  });
  if (subscription) return { subscriptionId: subscription.id, terms: planView(subscription.planVersion).terms };
  throw new MercatoError('NOT_SUBSCRIBED', `Subscribe to ${handle} before calling it.`);
}
