import { createHash } from 'node:crypto';
import type { Tx } from './database.ts';
import { badInput, MercatoError } from './errors.ts';
import { newId } from './ids.ts';
import { LIMITS } from './limits.ts';

/** A mutation as a retry of it would come again: `input` is JSON that a retry repeats. `tenantId`: whose key it is, of sessions the user's id. */
export type KeyedMutation = { tenantId: string; mutation: string; key: string; input: unknown };

/**
 * Makes an object under an id of its own, once for a key: `make` runs where the key is new, in the same transaction, and a call that meets another with the
 * key waits for that one's commit. Resolves to the object's id and whether it was made before. Keys are kept for ever, by tenant and mutation.
 * @throws BAD_USER_INPUT (the key's form), IDEMPOTENCY_CONFLICT (used with another input)
 */
export async function onceFor(
  tx: Tx,
  { tenantId, mutation, key, input }: KeyedMutation,
  make: (id: string) => Promise<void>,
): Promise<{ id: string; replayed: boolean }> {
  checkIdempotencyKey(key);
  const id = newId();
  const claimed = await tx.$executeRaw`
    insert into mutation_key (tenant_id, mutation, key, digest, object_id)
    values (${tenantId}::uuid, ${mutation}, ${key}, ${digestOf(input)}::bytea, ${id}::uuid) on conflict do nothing`;
  if (claimed === 1) {
    await make(id);
    return { id, replayed: false };
  }
  const known = await find(tx, { tenantId, mutation, key, input });
  if (!known?.same) {
    throw new MercatoError('IDEMPOTENCY_CONFLICT', undefined, {
      field: 'idempotencyKey',
      expected: 'the input of the first call, or a new key',
    });
  }
  return { id: known.objectId, replayed: true };
}

/** @throws BAD_USER_INPUT */
export function checkIdempotencyKey(key: string): void {
  if (key.length >= 1 && key.length <= LIMITS.idempotencyKeyLength && !key.includes('\0') && key.isWellFormed()) return;
  throw badInput('idempotencyKey', `idempotencyKey must have 1 to ${LIMITS.idempotencyKeyLength} characters.`, {
    given: `${key.length} characters`,
  });
}

/** Whether the mutation was made under this key, with this input. */
export async function isKnown(tx: Tx, keyed: KeyedMutation): Promise<boolean> {
  return (await find(tx, keyed))?.same ?? false;
}

/** What was made under the key, and whether with the same input. */
async function find(tx: Tx, { tenantId, mutation, key, input }: KeyedMutation): Promise<{ objectId: string; same: boolean } | undefined> {
  const [known] = await tx.$queryRaw<{ objectId: string; same: boolean }[]>`
    select object_id "objectId", digest = ${digestOf(input)}::bytea same from mutation_key
     where tenant_id = ${tenantId}::uuid and mutation = ${mutation} and key = ${key}`;
  return known;
}

const digestOf = (input: unknown) => createHash('sha256').update(JSON.stringify(input)).digest();
