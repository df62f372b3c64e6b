import type { Tx } from '../base/database.ts';
import type {
  ModelVersion,
  ModelVersionState,
  Plan,
  PlanVersion,
  Prisma,
  Subscription,
  Tenant,
  Upload,
} from '../generated/prisma/client.ts';
import { type Contents, contentsNow, type Profile, type Signature } from '../inference/inference.ts';
import { type Rejection, rejectionView } from './rejections.ts';

export type VersionMeasures = Profile & { measuredAt: string };

/** One immutable version; `handle` is `tenant/name@number`. `signature` is null before READY. */
export type ModelVersionView = {
  id: string;
  tenantId: string;
  modelId: string;
  number: number;
  handle: string;
  state: ModelVersionState;
  rejection: Rejection | null;
  sha256: string;
  sizeBytes: bigint;
  signature: Signature | null;
  joinable: boolean;
  batchFinding: string | null;
  /** The operator vouches that rows do not touch. */
  trusted: boolean;
  maxBatchRows: number;
  runLimitMs: number;
  deadlineMs: number;
  threads: number;
  /** What the gate read in the file; null before READY, and of versions from before it did. */
  contents: Contents | null;
  /** How many samples its publisher gave. */
  sampleCount: number;
  /** What the gate measured; null before READY, and of versions from before it measured. */
  profile: VersionMeasures | null;
  /** Stays loaded. */
  pinned: boolean;
  /** Runners on each host: those that stay loaded, and the most; null: what the host allows. */
  minReplicas: number;
  maxReplicas: number | null;
  publishedAt: Date | null;
  createdAt: Date;
};

/** The price and limits of one immutable plan version; money in nanos of `currency`, units per calendar month. */
export type PlanTerms = {
  planVersionId: string;
  currency: string;
  unitPriceNanos: bigint;
  freeUnits: bigint;
  quotaUnits: bigint | null;
  requestsPerMinute: number | null;
  burst: number | null;
  priority: number;
  /** What of the model it sells; null: what `live` points to. */
  alias: string | null;
};

/** One version of a plan. `id` is the plan version's: what was subscribed to and what is on offer now are two objects. */
export type PlanView = { id: string; planId: string; listingId: string; name: string; number: number; terms: PlanTerms };

/** A model with its offer; `handle` is `tenant/name`, `version` what it calls (null before it is published), `plans` what is on offer. */
export type ModelView = {
  id: string;
  listingId: string;
  tenantId: string;
  name: string;
  handle: string;
  publisher: Tenant;
  summary: string;
  tags: string[];
  published: boolean;
  version: ModelVersionView | null;
  plans: PlanView[];
  createdAt: Date;
};

/** A consumer's subscription, with the plan version that it holds. */
export type SubscriptionView = Pick<
  Subscription,
  'id' | 'consumerTenantId' | 'publisherTenantId' | 'listingId' | 'state' | 'createdAt' | 'cancelledAt'
> & { model: ModelView; plan: PlanView };

export type UploadView = Omit<Upload, 'tokenHash'>;

/** What a tenant may see of the marketplace: its own, the published, and what it subscribes to. Row-level security says the same below. */
export function visibleListing(tenantId: string | null): Prisma.ListingWhereInput {
  const published = { state: 'PUBLISHED' } as const;
  if (tenantId === null) return published;
  const subscriptions = { some: { consumerTenantId: tenantId, state: 'ACTIVE' } } as const;
  return { OR: [{ publisherTenantId: tenantId }, published, { subscriptions }] };
}

/** The alias that `tenant/name` calls. */
export const LIVE = 'live';

/** With what that alias points to. */
export const listingInclude = {
  model: { include: { tenant: true, aliases: { where: { name: LIVE }, include: { version: true } } } },
} as const;
export const versionInclude = { model: { select: { listing: { select: { handle: true } } } } } as const;

type ListingRow = Prisma.ListingGetPayload<{ include: typeof listingInclude }>;

export function toVersionView(row: ModelVersion, modelHandle: string): ModelVersionView {
  return {
    ...row,
    handle: `${modelHandle}@${row.number}`,
    rejection: rejectionView(row.rejection),
    signature: row.signature as Signature | null,
    contents: contentsNow(row.contents as Contents | null),
    profile: measuresOf(row),
  };
}

/** Of a row with `versionInclude`. */
export function versionView({ model, ...row }: Prisma.ModelVersionGetPayload<{ include: typeof versionInclude }>): ModelVersionView {
  return toVersionView(row, model.listing?.handle ?? '');
}

export function planView(row: PlanVersion & { plan: Pick<Plan, 'name' | 'listingId'> }): PlanView {
  const { id, planId, number, currency, unitPriceNanos, freeUnits, quotaUnits, requestsPerMinute, burst, priority, alias } = row;
  const terms = { planVersionId: id, currency, unitPriceNanos, freeUnits, quotaUnits, requestsPerMinute, burst, priority, alias };
  return { id, planId, listingId: row.plan.listingId, name: row.plan.name, number, terms };
}

/** Views in the order of the rows, with one more query for all their plans. */
export async function modelViews(tx: Tx, rows: readonly ListingRow[]): Promise<ModelView[]> {
  const plans = await plansOnOffer(
    tx,
    rows.map((row) => row.id),
  );
  return rows.map(({ model: { tenant, aliases, ...model }, ...listing }) => ({
    id: model.id,
    listingId: listing.id,
    tenantId: model.tenantId,
    name: model.name,
    handle: listing.handle,
    publisher: tenant,
    summary: listing.summary,
    tags: listing.tags,
    published: listing.state === 'PUBLISHED',
    version: aliases[0] === undefined ? null : toVersionView(aliases[0].version, listing.handle),
    plans: plans.get(listing.id) ?? [],
    createdAt: model.createdAt,
  }));
}

/** The newest version of each plan that is not retired, oldest plan first. */
async function plansOnOffer(tx: Tx, listingIds: string[]): Promise<Map<string, PlanView[]>> {
  const newest = await tx.$queryRaw<{ id: string }[]>`
    select v.id from plan p
    cross join lateral (select id from plan_version where plan_id = p.id order by number desc limit 1) v
    where p.listing_id = any(${listingIds}::uuid[]) and not p.retired`;
  const rows = await tx.planVersion.findMany({
    where: { id: { in: newest.map((row) => row.id) } },
    include: { plan: true },
    orderBy: { planId: 'asc' },
  });
  const byListing = new Map<string, PlanView[]>();
  for (const view of rows.map(planView)) byListing.set(view.listingId, [...(byListing.get(view.listingId) ?? []), view]);
  return byListing;
}

/** Of a version that was measured before each device was asked its samples, and before a run limit came of it, what it was measured on and what was asked for. */
export function measuresOf({ profile, runLimitMs }: Pick<ModelVersion, 'profile' | 'runLimitMs'>): VersionMeasures | null {
  if (profile === null) return null;
  const measures = profile as unknown as VersionMeasures;
  const { device, runtime } = measures;
  const verifiedOn = [measures.verifiedOn ?? { device, runtime }].flat();
  return { ...measures, verifiedOn, runLimitMs: measures.runLimitMs ?? runLimitMs };
}
