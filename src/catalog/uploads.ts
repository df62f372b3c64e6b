import { createHash, randomBytes } from 'node:crypto';
import type { Readable } from 'node:stream';
import { asSystem, asTenant, type Database, type Tx } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import { onceFor } from '../base/idempotency.ts';
import { newId } from '../base/ids.ts';
import { LIMITS } from '../base/limits.ts';
import { lockFile } from './files.ts';
import { found } from './models.ts';
import type { ModelStore, Staged } from './store.ts';
import type { UploadView } from './views.ts';

type Options = { db: Database; store: ModelStore; uploadsUrl(): string };

export function createUploads({ db, store, uploadsUrl }: Options) {
  /** Uploads whose file is coming in now: a second one at once would only fill the disk. Across processes the row decides. */
  const receiving = new Set<string>();

  async function create(tenantId: string): Promise<{ upload: UploadView; url: string; maxSizeBytes: number }> {
    const token = randomBytes(32).toString('base64url');
    const id = newId();
    const upload = await asTenant(db, tenantId, async (tx) => {
      await insert(tx, tenantId, id, token);
      return found(await find(tx, tenantId, id));
    });
    return { upload, url: `${uploadsUrl()}/${token}`, maxSizeBytes: LIMITS.modelBytesMax };
  }

  async function createOnce(tenantId: string, key: string): Promise<{ upload: UploadView; url: string | null; maxSizeBytes: number }> {
    const token = randomBytes(32).toString('base64url');
    return asTenant(db, tenantId, async (tx) => {
      const keyed = { tenantId, mutation: 'CREATE_UPLOAD', key, input: null };
      const { id, replayed } = await onceFor(tx, keyed, (id) => insert(tx, tenantId, id, token));
      const upload = found(await find(tx, tenantId, id));
      return { upload, url: replayed ? null : `${uploadsUrl()}/${token}`, maxSizeBytes: LIMITS.modelBytesMax };
    });
  }

  async function insert(tx: Tx, tenantId: string, id: string, token: string): Promise<void> {
    await tx.$executeRaw`
      insert into upload (id, tenant_id, token_hash, expires_at)
      values (${id}::uuid, ${tenantId}::uuid, ${digest(token)}::bytea, mercato_now() + ${LIMITS.uploadLifetimeMs}::int * interval '1 ms')`;
  }

  async function find(tx: Tx, tenantId: string | null, id: string): Promise<UploadView | null> {
    return tenantId === null ? null : tx.upload.findFirst({ where: { id, tenantId }, omit: { tokenHash: true } });
  }

  async function receive(token: string, body: Readable): Promise<UploadView> {
    const id = await asSystem(db, (tx) => openUpload(tx, token));
    if (receiving.has(id)) throw new MercatoError('CONFLICT', 'The file of this upload is being sent already.');
    receiving.add(id);
    try {
      await using staged = await store.stage(body, LIMITS.modelBytesMax);
      if (staged.sizeBytes === 0) throw badInput('body', 'The file is empty.', { given: '0 bytes', expected: 'an ONNX file' });
      return await asSystem(db, (tx) => complete(tx, id, staged));
    } finally {
      receiving.delete(id);
    }
  }

  return { create, createOnce, find, receive };
}

function digest(token: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(createHash('sha256').update(token).digest());
}

async function openUpload(tx: Tx, token: string): Promise<string> {
  const [upload] = await tx.$queryRaw<{ id: string }[]>`
    select id from upload where token_hash = ${digest(token)}::bytea and state = 'OPEN' and expires_at > mercato_now()`;
  return found(upload ?? null).id;
}

/** Of two files for one upload the first wins. The file is in the store before the row says so; alone there, it harms nobody. */
async function complete(tx: Tx, id: string, staged: Staged): Promise<UploadView> {
  await lockFile(tx, staged.sha256);
  const changed = await tx.$executeRaw`
    update upload set state = 'COMPLETE', sha256 = ${staged.sha256}, size_bytes = ${staged.sizeBytes}::bigint
    where id = ${id}::uuid and state = 'OPEN'`;
  if (changed === 0) throw new MercatoError('NOT_FOUND');
  await staged.keep();
  return tx.upload.findUniqueOrThrow({ where: { id }, omit: { tokenHash: true } });
}
