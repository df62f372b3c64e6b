import { asTenant, type Database, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { newId } from '../base/ids.ts';
import { LIMITS } from '../base/limits.ts';
import type { Prisma } from '../generated/prisma/client.ts';
import { parseSamples, type Sample } from '../inference/inference.ts';
import { type Checks, OPEN } from './checks.ts';
import { parseCount } from './input.ts';
import { found } from './models.ts';
import type { Stored } from './store.ts';
import type { ModelVersionView } from './views.ts';

export type VersionInput = {
  modelId: string;
  uploadId: string;
  maxBatchRows?: number | null | undefined;
  runLimitMs?: number | null | undefined;
  deadlineMs?: number | null | undefined;
  samples?: Parameters<typeof parseSamples>[0] | null | undefined;
};

type Bounds = { maxBatchRows: number; runLimitMs: number; deadlineMs: number };

const BATCH_ROWS_MAX = 4096;
export const DEFAULT_BOUNDS: Bounds = { maxBatchRows: 64, runLimitMs: 10_000, deadlineMs: LIMITS.deadlineMsDefault };
/** Versions made at the same moment count up one after the other; each loser finds the next number free. */
const ATTEMPTS_MAX = 20;
/** Of one tenant's versions that wait for their check, beyond which it uploads no more; a check takes 180 s at most. */
const OPEN_MAX = { count: 20, retryAfterMs: 10_000 };

/** As `Catalog.createModelVersion`. */
export async function createVersion(db: Database, checks: Checks, tenantId: string, input: VersionInput): Promise<ModelVersionView> {
  const bounds = {
    maxBatchRows: parseCount('maxBatchRows', input.maxBatchRows, [1, BATCH_ROWS_MAX]) ?? DEFAULT_BOUNDS.maxBatchRows,
    runLimitMs: parseCount('runLimitMs', input.runLimitMs, [1, 60_000]) ?? DEFAULT_BOUNDS.runLimitMs,
    deadlineMs: parseCount('deadlineMs', input.deadlineMs, [1, LIMITS.deadlineMsMax]) ?? DEFAULT_BOUNDS.deadlineMs,
  };
  const samples = parseSamples(input.samples ?? []);
  return checked(db, checks, tenantId, async (tx) => {
    const { id: modelId } = found(await tx.model.findFirst({ where: { id: input.modelId, tenantId } }));
    const { file, taken } = await takeUpload(tx, tenantId, input.uploadId);
    if (taken) return insertUploaded(tx, { tenantId, modelId, ...file, ...bounds, trusted: false, samples });
    const [existing] = await tx.modelVersion.findMany({
      where: { modelId, tenantId, sha256: file.sha256 },
      orderBy: { number: 'desc' },
      take: 1,
    });
    if (existing) return { id: existing.id, created: false };
    throw new MercatoError('CONFLICT', 'The upload was used for a version of another model.', { field: 'uploadId' });
  });
}

/** As `Catalog.addVersion`. */
export function addVersion(
  db: Database,
  checks: Checks,
  tenantId: string,
  { modelId, file, like = DEFAULT_BOUNDS }: { modelId: string; file: Stored; like?: Bounds },
): Promise<ModelVersionView> {
  const { maxBatchRows, runLimitMs, deadlineMs } = like;
  return checked(
    db,
    checks,
    tenantId,
    async (tx) => {
      found(await tx.model.findFirst({ where: { id: modelId, tenantId } }));
      return insertVersion(tx, { tenantId, modelId, ...file, maxBatchRows, runLimitMs, deadlineMs, trusted: false });
    },
    0,
  );
}

/** Puts what `insert` made through the gate; what work waits for before its tenant's uploads, for `turn` 0. */
async function checked(
  db: Database,
  checks: Checks,
  tenantId: string,
  insert: (tx: Tx) => Promise<{ id: string; created: boolean }>,
  turn?: number,
): Promise<ModelVersionView> {
  const version = await asTenant(db, tenantId, insert);
  const data = { tenantId, versionId: version.id };
  if (version.created) await checks.request(data, turn);
  const settled = await checks.settled(data);
  if (!version.created && settled.state === 'REJECTED') await checks.release(settled.sha256);
  return settled;
}

/** As `Catalog.takeUpload`. */
export async function takeUpload(tx: Tx, tenantId: string, id: string): Promise<{ file: Stored; taken: boolean }> {
  const { count } = await tx.upload.updateMany({ where: { id, tenantId, state: 'COMPLETE' }, data: { state: 'USED' } });
  const { sha256, sizeBytes, state } = found(await tx.upload.findFirst({ where: { id, tenantId } }));
  if (state === 'EXPIRED')
    throw new MercatoError('CONFLICT', 'The upload was not used in time; send the file again.', { field: 'uploadId' });
  if (sha256 === null || sizeBytes === null)
    throw new MercatoError('CONFLICT', 'No file has come for this upload yet.', { field: 'uploadId' });
  return { file: { sha256, sizeBytes: Number(sizeBytes) }, taken: count > 0 };
}

type NewVersion = Stored & Bounds & { tenantId: string; modelId: string; trusted: boolean; samples?: Sample[] };

/** As `insertVersion`, under a lock per tenant, or two calls would both take the last place. @throws OVERLOADED */
async function insertUploaded(tx: Tx, version: NewVersion): Promise<{ id: string; created: boolean }> {
  const { tenantId } = version;
  await tx.$executeRaw`select pg_advisory_xact_lock(hashtext('mercato.open_versions'), hashtext(${tenantId}))`;
  const inserted = await insertVersion(tx, version);
  const { count, retryAfterMs } = OPEN_MAX;
  if (inserted.created && (await tx.modelVersion.count({ where: { tenantId, state: { in: [...OPEN] } } })) > count) {
    const message = `At most ${count} versions of a tenant wait for their check at once; make this one when another is READY or REJECTED.`;
    throw new MercatoError('OVERLOADED', message, { limit: String(count), retryAfterMs });
  }
  return inserted;
}

/** A version with the model's next number, or the one that has these bytes already and was not rejected. */
export async function insertVersion(tx: Tx, version: NewVersion): Promise<{ id: string; created: boolean }> {
  const { tenantId, modelId, sha256, trusted, samples = [] } = version;
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const [created] = await tx.$queryRaw<{ id: string }[]>`
      insert into model_version (id, tenant_id, model_id, number, sha256, size_bytes, trusted, max_batch_rows, run_limit_ms, deadline_ms, sample_count)
      select ${newId()}::uuid, ${tenantId}::uuid, ${modelId}::uuid, coalesce(max(number), 0) + 1, ${sha256}, ${version.sizeBytes}::bigint,
        ${trusted}, ${version.maxBatchRows}::int, ${version.runLimitMs}::int, ${version.deadlineMs}::int, ${samples.length}::int
      from model_version where model_id = ${modelId}::uuid
      on conflict do nothing returning id`;
    if (created) {
      const data = { versionId: created.id, tenantId, samples: samples as unknown as Prisma.InputJsonArray };
      if (samples.length > 0) await tx.versionSamples.create({ data });
      return { id: created.id, created: true };
    }
    const existing = await tx.modelVersion.findFirst({ where: { modelId, tenantId, sha256, state: { not: 'REJECTED' } } });
    if (existing) return { id: existing.id, created: false };
  }
  throw new MercatoError('OVERLOADED', 'Many versions of this model are being made at once.', { retryAfterMs: 1_000 });
}
