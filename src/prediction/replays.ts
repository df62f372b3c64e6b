import { createHash } from 'node:crypto';
import { deserialize, serialize } from 'node:v8';
import DataLoader from 'dataloader';
import { asSystem, type Database, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { type ModelStore, sweepKeys } from '../catalog/catalog.ts';
import type { Tensor } from '../inference/inference.ts';

/** What a caller of `predict` gets again on a retry, besides units and amount, which the usage record has. */
export type Answer = {
  id: string;
  modelVersionId: string;
  outputs: Tensor[];
  timing: { queueMs: number; computeMs: number; batchRows: number; device: string };
};

/** A key that was used: its record and, until it expires, its answer. */
export type Stored = { digest: Buffer; recordId: string; units: number; amountNanos: bigint; answer: Answer | null };

/** Of the store. */
const FOLDER = 'replays';
/** Answers up to this many bytes lie in the row. */
const ROW_BYTES_MAX = 1024 * 1024;
const EXPIRE_MAX = 500;
/** Keys that one statement looks up: as many answers of the size above are in memory at once. */
const LOOKED_UP_MAX = 32;

type Key = { tenantId: string; key: string };

type StoredRow = {
  tenantId: string;
  key: string;
  digest: Uint8Array;
  recordId: string;
  units: bigint | null;
  amountNanos: bigint | null;
  answer: Uint8Array | null;
  storeKey: string | null;
};

/** Idempotency keys are kept for ever, their answers until they expire. The settlement writes both. */
export function createReplays(options: { db: Database; store: ModelStore }) {
  const { db, store } = options;

  /** Serialises an answer; a large one goes to the model store at once, so that the settlement writes only its name. */
  async function prepare(answer: Answer): Promise<{ answer: Buffer | null; storeKey: string | null }> {
    const bytes = serialize(answer);
    if (bytes.length <= ROW_BYTES_MAX) return { answer: bytes, storeKey: null };
    const storeKey = `${FOLDER}/${answer.id}`;
    await store.putBytes(storeKey, bytes);
    return { answer: null, storeKey };
  }

  /** What is stored under these keys, by tenant and key. */
  async function find(tx: Tx, keys: readonly Key[]): Promise<Map<string, StoredRow>> {
    const rows = await tx.$queryRaw<StoredRow[]>`
      select i.tenant_id "tenantId", i.key, i.digest, i.record_id "recordId", u.units, u.amount_nanos "amountNanos", r.answer, r.store_key "storeKey"
        from unnest(${keys.map((k) => k.tenantId)}::uuid[], ${keys.map((k) => k.key)}::text[]) k (tenant_id, key)
        join idempotency_key i using (tenant_id, key)
        left join usage_record u on u.period = i.period and u.id = i.record_id
        left join replay r on r.record_id = i.record_id and r.expires_at > mercato_now()`;
    return new Map(rows.map((row) => [keyOf(row), row]));
  }

  async function load(row: StoredRow): Promise<Stored> {
    const bytes = row.storeKey === null ? row.answer : await store.readBytes(row.storeKey);
    const answer = bytes === null ? null : (deserialize(bytes) as Answer);
    return {
      digest: Buffer.from(row.digest),
      recordId: row.recordId,
      units: Number(row.units ?? 0n),
      amountNanos: row.amountNanos ?? 0n,
      answer,
    };
  }

  /** Keys of one turn of the event loop share a statement: callers send again when there is least time for each alone. */
  const rows = new DataLoader<Key, StoredRow | null, string>(
    async (keys) => {
      const found = await asSystem(db, (tx) => find(tx, keys));
      return keys.map((key) => found.get(keyOf(key)) ?? null);
    },
    { cache: false, maxBatchSize: LOOKED_UP_MAX, batchScheduleFn: setImmediate },
  );

  /** The stored call of a key, or null where the key is new. */
  async function lookUp(tenantId: string, key: string): Promise<Stored | null> {
    const row = await rows.load({ tenantId, key });
    return row && load(row);
  }

  /** Deletes what has expired, in transactions of at most 500 answers. */
  async function expire(): Promise<void> {
    while ((await expireSome()) === EXPIRE_MAX);
  }

  async function expireSome(): Promise<number> {
    const rows = await asSystem(
      db,
      (tx) => tx.$queryRaw<{ storeKey: string | null }[]>`
      with old as (select record_id from replay where expires_at <= mercato_now() order by record_id limit ${EXPIRE_MAX} for update skip locked)
      delete from replay r using old where r.record_id = old.record_id returning r.store_key "storeKey"`,
    );
    for (const { storeKey } of rows) if (storeKey !== null) await store.delete(storeKey);
    return rows.length;
  }

  return { prepare, find, load, lookUp, expire, discard: (storeKey: string) => store.delete(storeKey) };
}

/** Deletes answers of processes that died before they were settled: what is stored and has no row. */
export async function sweepReplays(db: Database, store: ModelStore): Promise<void> {
  await sweepKeys(store, FOLDER, async (ids) => {
    const rows = await asSystem(
      db,
      (tx) => tx.$queryRaw<{ id: string }[]>`
        select k.id::text from unnest(${ids}::uuid[]) k (id) where not exists (select from replay r where r.record_id = k.id)`,
    );
    return rows.map(({ id }) => id);
  });
}

export type Replays = ReturnType<typeof createReplays>;
export const keyOf = (call: Key) => `${call.tenantId}:${call.key}`;

/**
 * The stored call as the answer of a retry. @throws IDEMPOTENCY_CONFLICT where the input differs, IDEMPOTENCY_EXPIRED where only the record
 * is left.
 */
export function replayOf(stored: Stored, digest: Buffer, currency: string): Stored & { answer: Answer } {
  if (!stored.digest.equals(digest)) throw keyConflict();
  if (stored.answer === null) {
    throw new MercatoError('IDEMPOTENCY_EXPIRED', undefined, {
      predictionId: stored.recordId,
      units: stored.units,
      amountNanos: stored.amountNanos.toString(),
      currency,
    });
  }
  return { ...stored, answer: stored.answer };
}

export function keyConflict(): MercatoError {
  return new MercatoError('IDEMPOTENCY_CONFLICT', undefined, {
    field: 'idempotencyKey',
    expected: 'the input of the first call, or a new key',
  });
}

/** SHA-256 over model as given, decoded inputs and outputs, each length-prefixed; a deadline is no part of it. */
export function digestOf(model: string, inputs: readonly Tensor[], outputs: readonly string[] | null): Buffer {
  const hash = createHash('sha256');
  const add = (bytes: string | Uint8Array) => {
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(typeof bytes === 'string' ? Buffer.byteLength(bytes) : bytes.length));
    hash.update(length).update(bytes);
  };
  add(model);
  const sorted = inputs.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  for (const tensor of sorted) {
    add(tensor.name);
    add(tensor.datatype);
    add(tensor.shape.join(','));
    add(tensor.data);
  }
  add(outputs === null ? 'all' : `only\0${outputs.join('\0')}`);
  return hash.digest();
}
