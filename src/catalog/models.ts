import { asTenant, type Database, isUniqueViolation, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { type Connection, connection, newId, type PageRequest } from '../base/ids.ts';
import { parseHandle, parseModelName, parseSummary, parseTags } from './input.ts';
import { searchQuery } from './search.ts';
import {
  listingInclude,
  type ModelVersionView,
  type ModelView,
  modelViews,
  type PlanView,
  planView,
  versionInclude,
  versionView,
  visibleListing,
} from './views.ts';

export type ModelInput = { name: string; summary?: string; tags?: string[] };

const VERSIONS_MAX = 100;

/** As `Catalog.createModel`. */
export async function createModel(db: Database, tenantId: string, input: ModelInput): Promise<ModelView> {
  const name = parseModelName(input.name);
  const summary = parseSummary(input.summary ?? '');
  const tags = parseTags(input.tags ?? []);
  try {
    return await asTenant(db, tenantId, async (tx) => {
      const tenant = await tx.tenant.findUniqueOrThrow({ where: { id: tenantId } });
      const model = await tx.model.create({ data: { id: newId(), tenantId, name } });
      const handle = `${tenant.name}/${name}`;
      await tx.listing.create({ data: { id: newId(), publisherTenantId: tenantId, modelId: model.id, handle, summary, tags } });
      return found(await findModel(tx, tenantId, model.id));
    });
  } catch (error) {
    if (!isUniqueViolation(error)) throw error;
    throw new MercatoError('CONFLICT', 'You have a model of this name already.', { field: 'name', given: name });
  }
}

export function found<T>(view: T | null): T {
  if (view === null) throw new MercatoError('NOT_FOUND');
  return view;
}

/** As `Catalog.models`. */
export async function listModels(
  tx: Tx,
  _tenantId: string | null,
  search: string | null,
  page: PageRequest,
): Promise<Connection<ModelView>> {
  const query = searchQuery(search ?? '');
  const ids = query === null ? await newestPublished(tx, page) : await bestPublished(tx, query, page);
  const rows = await tx.listing.findMany({
    where: { modelId: { in: ids.map((row) => row.id) }, state: 'PUBLISHED' },
    include: listingInclude,
  });
  const views = new Map((await modelViews(tx, rows)).map((view) => [view.id, view]));
  return connection(
    ids.flatMap(({ id }) => views.get(id) ?? []),
    page,
  );
}

type Id = { id: string };

function newestPublished(tx: Tx, { first, afterId }: PageRequest): Promise<Id[]> {
  return tx.$queryRaw<Id[]>`
    select l.model_id as id from listing l
    where l.state = 'PUBLISHED' and (${afterId}::uuid is null or (l.published_at, l.model_id) <
      (select c.published_at, c.model_id from listing c where c.model_id = ${afterId}::uuid and c.state = 'PUBLISHED'))
    order by l.published_at desc, l.model_id desc limit ${first + 1}`;
}

function bestPublished(tx: Tx, query: string, { first, afterId }: PageRequest): Promise<Id[]> {
  return tx.$queryRaw<Id[]>`
    with q as materialized (select to_tsquery('simple', ${query}) as words)
    select l.model_id as id from listing l, q
    where l.state = 'PUBLISHED' and l.search @@ q.words and (${afterId}::uuid is null or (ts_rank(l.search, q.words), l.model_id) <
      (select ts_rank(c.search, q.words), c.model_id from listing c where c.model_id = ${afterId}::uuid and c.state = 'PUBLISHED'))
    order by ts_rank(l.search, q.words) desc, l.model_id desc limit ${first + 1}`;
}

/** As `Catalog.ownModels`. */
export async function ownModels(tx: Tx, tenantId: string, page: PageRequest): Promise<Connection<ModelView>> {
  const rows = await tx.listing.findMany({
    where: { publisherTenantId: tenantId, ...(page.afterId === null ? {} : { modelId: { lt: page.afterId } }) },
    include: listingInclude,
    orderBy: { modelId: 'desc' },
    take: page.first + 1,
  });
  return connection(await modelViews(tx, rows), page);
}

/** As `Catalog.model`. */
export async function modelByHandle(tx: Tx, tenantId: string | null, handle: string): Promise<ModelView | null> {
  if (parseHandle(handle)?.handle !== handle) return null;
  const rows = await tx.listing.findMany({ where: { handle, ...visibleListing(tenantId) }, include: listingInclude });
  return (await modelViews(tx, rows))[0] ?? null;
}

export async function findModel(tx: Tx, tenantId: string | null, id: string): Promise<ModelView | null> {
  const rows = await tx.listing.findMany({ where: { modelId: id, ...visibleListing(tenantId) }, include: listingInclude });
  return (await modelViews(tx, rows))[0] ?? null;
}

export async function findModelVersion(tx: Tx, tenantId: string | null, id: string): Promise<ModelVersionView | null> {
  const published = { publishedAt: { not: null }, model: { listing: visibleListing(tenantId) } };
  const who = tenantId === null ? published : { OR: [{ tenantId }, published] };
  const row = await tx.modelVersion.findFirst({ where: { id, ...who }, include: versionInclude });
  return row && versionView(row);
}

/** Of each model the newest 100, newest first; to others than the owner, those that were published. For a loader. */
export async function versionsByModel(tx: Tx, modelIds: readonly string[]): Promise<Map<string, ModelVersionView[]>> {
  const ids = await tx.$queryRaw<Id[]>`
    select v.id from unnest(${[...modelIds]}::uuid[]) as m (id)
    cross join lateral (
      select id from model_version where model_id = m.id and (tenant_id = mercato_tenant_id() or published_at is not null)
      order by number desc limit ${VERSIONS_MAX}) v`;
  const rows = await tx.modelVersion.findMany({
    where: { id: { in: ids.map((row) => row.id) } },
    include: versionInclude,
    orderBy: { number: 'desc' },
  });
  return Map.groupBy(rows.map(versionView), (view) => view.modelId);
}

/** By a plan version's id. */
export async function findPlan(tx: Tx, tenantId: string | null, id: string): Promise<PlanView | null> {
  const row = await tx.planVersion.findFirst({ where: { id, plan: { listing: visibleListing(tenantId) } }, include: { plan: true } });
  return row && planView(row);
}
