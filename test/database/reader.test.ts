import { setImmediate as turn } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asSystem, asTenant, type Tx } from '../../src/base/database.ts';
import { createLoaders } from '../../src/graphql/loaders.ts';
import { createReader, type Reader } from '../../src/graphql/reader.ts';
import { openTestDatabase } from '../support/database.ts';
import { codeOf, startTinyServer } from '../support/tiny-server.ts';

let db: Awaited<ReturnType<typeof openTestDatabase>>;
beforeAll(async () => {
  db = await openTestDatabase();
});
afterAll(() => db[Symbol.asyncDispose]());

/** The id of the transaction's snapshot owner: the same within one transaction, another in the next. */
async function transaction(tx: Tx): Promise<string> {
  const [row] = await tx.$queryRaw<{ id: string }[]>`select pg_backend_pid() || ' ' || now()::text id`;
  return row?.id ?? '';
}

describe("a request's reads", () => {
  it('share one transaction in a query', async () => {
    const reader = createReader(db, null, true);
    const [first, second] = await Promise.all([reader.read(transaction), reader.read(transaction)]);
    expect(second).toBe(first);
    expect(await reader.read(transaction)).toBe(first);
    await reader.close();
  });

  it('are each their own transaction in a mutation, so that none is open between them', async () => {
    const reader = createReader(db, null, false);
    await reader.read(transaction);
    expect(await asSystem(db, transaction)).not.toBe('');
    await reader.close();
  });

  it('make way for what opens a transaction of its own', async () => {
    const reader = createReader(db, null, true);
    const results = await Promise.all([reader.read(transaction), reader.apart(() => asSystem(db, transaction)), reader.read(transaction)]);
    expect(new Set(results).size).toBe(3);
    await reader.close();
  });

  it('hold no transaction after close, also where a read failed', async () => {
    const reader = createReader(db, null, true);
    await expect(reader.read((tx) => tx.$queryRaw`select 1 / 0`)).rejects.toThrow();
    await reader.close();
    expect(await asSystem(db, transaction)).not.toBe('');
  });

  it('that a request never makes open no transaction', async () => {
    await createReader(db, null, true).close();
  });
});

describe('a closed reader', () => {
  it.each([true, false])('begins nothing more (shared: %s)', async (shared) => {
    const reader = createReader(db, null, shared);
    await reader.close();
    await expect(reader.read(transaction)).rejects.toThrow('over');
    await expect(reader.apart(async () => 'done')).rejects.toThrow('over');
    expect(await asSystem(db, transaction)).not.toBe('');
  });

  it('lets the read that has begun end, drops those behind it and then holds no transaction', async () => {
    const reader = createReader(db, null, true);
    const begun = Promise.withResolvers<void>();
    const goOn = Promise.withResolvers<void>();
    const first = reader.read(async (tx) => {
      begun.resolve();
      await goOn.promise;
      return transaction(tx);
    });
    const second = reader.read(transaction);
    const dropped = expect(second).rejects.toThrow('over');
    await begun.promise;
    const closed = reader.close();
    goOn.resolve();
    expect(await first).not.toBe('');
    await dropped;
    await closed;
    expect(await asSystem(db, transaction)).not.toBe('');
  });
});

describe('a query that fails while others of its fields are being read', () => {
  const typeDefs = 'type Query { fails: Int! rows: [Row!]! late: String } type Row { more: String }';
  /** More often than a pool has connections. */
  const ROUNDS = 6;

  it('leaves no transaction behind, though their own fields read on', async () => {
    let reading = Promise.withResolvers<void>();
    let readOn = Promise.withResolvers<unknown>();
    const resolvers = {
      Query: {
        fails: () => reading.promise.then(() => Promise.reject(new Error('early'))),
        rows: (_: unknown, __: unknown, { read }: Reader) =>
          read(async (tx) => {
            reading.resolve();
            await turn();
            return [await transaction(tx)];
          }),
      },
      Row: {
        more: (_: unknown, __: unknown, { read }: Reader) => {
          const result = read(transaction);
          readOn.resolve(result);
          return result;
        },
      },
    };
    await using server = await startTinyServer({ typeDefs, resolvers });
    for (let round = 0; round < ROUNDS; round++) {
      reading = Promise.withResolvers();
      readOn = Promise.withResolvers();
      const refused = expect(readOn.promise).rejects.toThrow('over');
      expect(await codeOf(await server.post({ query: '{ fails rows { more } }' }))).toBe('INTERNAL');
      await refused;
    }
    expect(await asTenant(server.db, null, transaction)).not.toBe('');
  });

  it('leaves no transaction behind, though one reads for the first time after the answer', async () => {
    let goOn = Promise.withResolvers<void>();
    let reads = Promise.withResolvers<unknown>();
    const resolvers = {
      Query: {
        fails: () => Promise.reject(new Error('early')),
        late: async (_: unknown, __: unknown, { read }: Reader) => {
          await goOn.promise;
          const result = read(transaction);
          reads.resolve(result);
          return result;
        },
      },
    };
    await using server = await startTinyServer({ typeDefs, resolvers });
    for (let round = 0; round < ROUNDS; round++) {
      goOn = Promise.withResolvers();
      reads = Promise.withResolvers();
      expect(await codeOf(await server.post({ query: '{ fails late }' }))).toBe('INTERNAL');
      goOn.resolve();
      await expect(reads.promise).rejects.toThrow('over');
    }
    expect(await asTenant(server.db, null, transaction)).not.toBe('');
  });
});

describe('loaders', () => {
  it('read many keys at once and each key once', async () => {
    const batches: string[][] = [];
    const byKey = async (_: Tx, keys: readonly string[]) => {
      batches.push([...keys]);
      return new Map(keys.filter((key) => key !== 'absent').map((key) => [key, key.toUpperCase()]));
    };
    const reader = createReader(db, null, true);
    const loaders = createLoaders(reader.read, true);
    expect(await Promise.all(['a', 'absent', 'b', 'a'].map((key) => loaders.load(byKey, key)))).toEqual(['A', null, 'B', 'A']);
    expect(await loaders.load(byKey, 'a')).toBe('A');
    expect(batches).toEqual([['a', 'absent', 'b']]);
    await reader.close();
  });
});
