import type { Invalidations } from '../access/access.ts';
import { asTenant, type Database, isUniqueViolation, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { type Connection, connection, newId, type PageRequest } from '../base/ids.ts';
import type { Prisma } from '../generated/prisma/client.ts';
import { found } from './models.ts';
import { listingInclude, modelViews, planView, type SubscriptionView, visibleListing } from './views.ts';

const include = { listing: { include: listingInclude }, planVersion: { include: { plan: true } } } as const;

/** As `Catalog.subscriptions`. */
export async function ownSubscriptions(tx: Tx, tenantId: string, page: PageRequest): Promise<Connection<SubscriptionView>> {
  const rows = await tx.subscription.findMany({
    where: { ...own(tenantId), ...(page.afterId === null ? {} : { id: { lt: page.afterId } }) },
    include,
    orderBy: { id: 'desc' },
    take: page.first + 1,
  });
  return connection(await subscriptionViews(tx, rows), page);
}

export async function findSubscription(tx: Tx, tenantId: string | null, id: string): Promise<SubscriptionView | null> {
  if (tenantId === null) return null;
  const rows = await tx.subscription.findMany({ where: { id, ...own(tenantId) }, include });
  return (await subscriptionViews(tx, rows))[0] ?? null;
}

/** Of the consumer; a cancelled one of a model that was withdrawn has nothing left to show. */
function own(tenantId: string): Prisma.SubscriptionWhereInput {
  return { consumerTenantId: tenantId, listing: visibleListing(tenantId) };
}

async function subscriptionViews(
  tx: Tx,
  rows: readonly Prisma.SubscriptionGetPayload<{ include: typeof include }>[],
): Promise<SubscriptionView[]> {
  const models = await modelViews(
    tx,
    rows.map((row) => row.listing),
  );
  return rows.flatMap(({ listing: _, planVersion, ...row }, index) => {
    const model = models[index];
    return model === undefined ? [] : { ...row, model, plan: planView(planVersion) };
  });
}

/** As `Catalog.subscribe`. */
export async function subscribe(
  db: Database,
  invalidations: Invalidations,
  tenantId: string,
  planVersionId: string,
): Promise<SubscriptionView> {
  try {
    const { view, seq } = await asTenant(db, tenantId, async (tx) => {
      const { planId, publisherTenantId, listingId } = await offeredPlan(tx, tenantId, planVersionId);
      const data = { id: newId(), consumerTenantId: tenantId, publisherTenantId, listingId, planId, planVersionId };
      await tx.subscription.create({ data });
      const view = found(await findSubscription(tx, tenantId, data.id));
      return { view, seq: await invalidations.publish(tx, 'subscription', [tenantId]) };
    });
    await invalidations.confirmed(seq);
    return view;
  } catch (error) {
    if (!isUniqueViolation(error)) throw error;
    throw new MercatoError('CONFLICT', 'You have an active subscription to this model already.');
  }
}

async function offeredPlan(tx: Tx, tenantId: string, planVersionId: string) {
  const version = found(
    await tx.planVersion.findFirst({
      where: { id: planVersionId, plan: { listing: visibleListing(tenantId) } },
      include: { plan: { include: { listing: true, versions: { orderBy: { number: 'desc' }, take: 1 } } } },
    }),
  );
  const { plan, planId } = version;
  if (plan.publisherTenantId === tenantId)
    throw new MercatoError('CONFLICT', 'This is your own model: you may call it without a subscription.');
  if (plan.listing.state !== 'PUBLISHED') throw new MercatoError('CONFLICT', 'The model is not offered any more.');
  if (plan.retired) throw new MercatoError('CONFLICT', 'The plan is not offered any more.');
  if (plan.versions[0]?.id !== planVersionId) throw new MercatoError('CONFLICT', 'The plan has changed since: look at it again.');
  return { planId, publisherTenantId: plan.publisherTenantId, listingId: plan.listingId };
}

/** As `Catalog.cancelSubscription`. */
export async function cancelSubscription(
  db: Database,
  invalidations: Invalidations,
  tenantId: string,
  id: string,
): Promise<SubscriptionView> {
  const { view, seq } = await asTenant(db, tenantId, async (tx) => {
    // Read first: cancelled, it may not show a withdrawn model any more.
    const before = found(await findSubscription(tx, tenantId, id));
    const [row] = await tx.$queryRaw<{ cancelledAt: Date }[]>`
      update subscription set state = 'CANCELLED', cancelled_at = mercato_now()
      where id = ${id}::uuid and consumer_tenant_id = ${tenantId}::uuid and state = 'ACTIVE' returning cancelled_at as "cancelledAt"`;
    const view: SubscriptionView = row ? { ...before, state: 'CANCELLED', cancelledAt: row.cancelledAt } : before;
    // Also where it was cancelled already: the first answer may still be waiting for the other processes.
    return { view, seq: await invalidations.publish(tx, 'subscription', [tenantId]) };
  });
  await invalidations.confirmed(seq);
  return view;
}
