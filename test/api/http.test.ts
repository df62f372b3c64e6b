import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MercatoError } from '../../src/base/errors.ts';
import { LIMITS } from '../../src/base/limits.ts';
import { answerOf, codeOf, startTinyServer, type TinyServer } from '../support/tiny-server.ts';

const typeDefs = 'type Query { hello: String! whoami: String refuse: String! break: String! }';
const resolvers = {
  Query: {
    hello: () => 'world',
    whoami: (_: unknown, __: unknown, { principal }: { principal: { tenantId: string } | null }) => principal?.tenantId ?? null,
    refuse: () => {
      throw new MercatoError('RATE_LIMITED', undefined, { retryAfterMs: 250 });
    },
    break: () => {
      throw new Error('secret of the database');
    },
  },
};

let server: TinyServer;
let ready = true;
beforeAll(async () => {
  server = await startTinyServer(
    { typeDefs, resolvers },
    {
      adminToken: 'let me in',
      isReady: () => ready,
      audit: async (tenantName) => ({ clean: tenantName ?? true }),
      receiveUpload: async (token, body) => {
        if (token !== 'open') throw new MercatoError('NOT_FOUND');
        let sizeBytes = 0;
        for await (const chunk of body) sizeBytes += (chunk as Buffer).length;
        return { sha256: 'abc', sizeBytes };
      },
    },
  );
});
afterAll(() => server[Symbol.asyncDispose]());

const GRAPHQL_JSON = { accept: 'application/graphql-response+json' };

describe('a GraphQL request', () => {
  it('is answered with its request id, uncached and of a fixed type', async () => {
    const response = await server.post({ query: '{ hello }' });
    expect(await response.json()).toEqual({ data: { hello: 'world' } });
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('application/json; charset=utf-8');
    expect(response.headers.get('cache-control')).toBe('no-store');
    expect(response.headers.get('x-content-type-options')).toBe('nosniff');
    expect(response.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  });

  it('keeps a sane request id of the caller and replaces another', async () => {
    const sane = await server.post({ query: '{ hello }' }, { 'x-request-id': 'trace:42.a' });
    expect(sane.headers.get('x-request-id')).toBe('trace:42.a');
    const other = await server.post({ query: '{ hello }' }, { 'x-request-id': 'a b"<' });
    expect(other.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  });

  it.each(['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', 'application/xml'])(
    'of type %s, which a foreign page could send, is refused',
    async (type) => {
      const response = await server.post({ query: '{ hello }' }, { 'content-type': type });
      expect(response.status).toBe(415);
      expect(await codeOf(response)).toBe('BAD_USER_INPUT');
    },
  );

  it('that is a batch of operations is refused', async () => {
    const response = await server.post([{ query: '{ hello }' }, { query: '{ hello }' }]);
    expect(response.status).toBe(400);
    expect(await codeOf(response)).toBe('BAD_USER_INPUT');
  });

  it.each([
    ['malformed JSON', '{"query": '],
    ['an empty body', ''],
    ['a JSON scalar', '7'],
    ['no query', '{"variables":{}}'],
    ['variables that are a string', '{"query":"{hello}","variables":"{}"}'],
  ])('with %s is status 400 and BAD_USER_INPUT', async (_, body) => {
    const response = await server.post(body);
    expect(response.status).toBe(400);
    expect(await codeOf(response)).toBe('BAD_USER_INPUT');
  });

  it('larger than accepted is PAYLOAD_TOO_LARGE and says the limit', async () => {
    const response = await server.post({ query: '{ hello }', variables: { pad: 'x'.repeat(100_000) } });
    expect(response.status).toBe(413);
    expect((await answerOf(response)).errors?.[0]?.extensions).toEqual({ code: 'PAYLOAD_TOO_LARGE', retryable: false, limit: '100000' });
  });

  it('naming a persisted query is BAD_USER_INPUT', async () => {
    const response = await server.post({ extensions: { persistedQuery: { version: 1, sha256Hash: 'ab' } } });
    expect(await codeOf(response)).toBe('BAD_USER_INPUT');
  });
});

describe('credentials', () => {
  it('may be absent', async () => {
    expect(await (await server.post({ query: '{ whoami }' })).json()).toEqual({ data: { whoami: null } });
  });

  it('make the principal', async () => {
    const response = await server.post({ query: '{ whoami }' }, { 'x-api-key': 'good' });
    expect((await answerOf(response)).data?.whoami).toMatch(/^0{8}-/);
  });

  it('that are not valid are UNAUTHENTICATED, also for what is open to anyone', async () => {
    const response = await server.post({ query: '{ hello }' }, { 'x-api-key': 'bad' });
    expect(response.status).toBe(200);
    expect(await codeOf(response)).toBe('UNAUTHENTICATED');
    const typed = await server.post({ query: '{ hello }' }, { 'x-api-key': 'bad', ...GRAPHQL_JSON });
    expect(typed.status).toBe(401);
    expect(typed.headers.get('content-type')).toBe('application/graphql-response+json; charset=utf-8');
  });
});

describe('an error', () => {
  it('carries code, retryability, its facts and its place', async () => {
    const { errors, data } = await answerOf(await server.post({ query: '{ refuse }' }));
    expect(data).toBeNull();
    expect(errors).toMatchObject([{ path: ['refuse'], extensions: { code: 'RATE_LIMITED', retryable: true, retryAfterMs: 250 } }]);
  });

  it('has its status only for application/graphql-response+json', async () => {
    expect((await server.post({ query: '{ refuse }' })).status).toBe(200);
    expect((await server.post({ query: '{ refuse }' }, GRAPHQL_JSON)).status).toBe(429);
    expect((await server.post({ query: '{ nothing }' })).status).toBe(200);
    expect((await server.post({ query: '{ nothing }' }, GRAPHQL_JSON)).status).toBe(400);
    expect((await server.post({ query: '{ hello }' }, GRAPHQL_JSON)).status).toBe(200);
  });

  it('of syntax, of validation or of variables is BAD_USER_INPUT with its location', async () => {
    for (const query of [
      '{ hello',
      '{ nothing }',
      'query ($x: Int!) { __type(name: "Q") { name } hello @skip(if: $x) }',
      'query ($a: Int!) { hello }',
    ]) {
      const error = (await answerOf(await server.post({ query }))).errors?.[0];
      expect(error?.extensions.code).toBe('BAD_USER_INPUT');
      expect(error?.locations?.[0]).toMatchObject({ line: 1 });
      expect(error).not.toHaveProperty('extensions.stacktrace');
    }
  });

  it('of the server shows its request id and nothing else', async () => {
    const response = await server.post({ query: '{ break }' }, GRAPHQL_JSON);
    const text = await response.text();
    expect(response.status).toBe(500);
    expect(text).not.toContain('secret');
    const [error] = JSON.parse(text).errors;
    expect(error.extensions).toEqual({ code: 'INTERNAL', retryable: true, requestId: response.headers.get('x-request-id') });
  });

  it('of an accept header that names neither JSON type is 406', async () => {
    expect((await server.post({ query: '{ hello }' }, { accept: 'text/html' })).status).toBe(406);
  });
});

describe('an answer that is held until its hand-over', () => {
  const held = {
    Query: {
      hello: (_: unknown, __: unknown, { onAnswered }: { onAnswered(fn: () => void): void }) => {
        onAnswered(() => released++);
        return 'world';
      },
    },
  };
  let released = 0;

  /** The code of the answer, how often the database was asked and how often the answer was released. */
  async function handedOver(query: string, fresh: boolean, refresh: () => Promise<boolean>): Promise<[string, number, number]> {
    released = 0;
    let asked = 0;
    const invalidations = {
      isFresh: () => fresh,
      refresh: async () => {
        asked++;
        fresh = await refresh();
      },
    };
    await using server = await startTinyServer({ typeDefs, resolvers: held }, { invalidations });
    return [await codeOf(await server.post({ query })), asked, released];
  }

  it('is handed over by a process that heard from the database in time', async () => {
    expect(await handedOver('{ hello }', true, async () => false)).toEqual(['OK', 0, 1]);
  });

  it('is handed over once the database answers again', async () => {
    expect(await handedOver('{ hello }', false, async () => true)).toEqual(['OK', 1, 1]);
  });

  it.each([
    ['nothing is heard', async () => false],
    ['the database cannot be asked', () => Promise.reject(new Error('no connection'))],
  ])('is OUTCOME_UNKNOWN where %s', async (_, refresh) => {
    expect(await handedOver('{ hello }', false, refresh)).toEqual(['OUTCOME_UNKNOWN', 1, 1]);
  });

  it('is handed over in the same step as the look: nothing that was begun before comes between', async () => {
    const order: string[] = [];
    const invalidations = {
      isFresh() {
        order.push('look');
        queueMicrotask(() => order.push('next step'));
        return true;
      },
      refresh: async () => {},
    };
    const resolvers = {
      Query: {
        hello: (_: unknown, __: unknown, { onAnswered }: { onAnswered(fn: () => void): void }) => {
          onAnswered(() => order.push('handed over'));
          return 'world';
        },
      },
    };
    await using server = await startTinyServer({ typeDefs, resolvers }, { invalidations });
    expect(await codeOf(await server.post({ query: '{ hello }' }))).toBe('OK');
    expect(order).toEqual(['look', 'handed over', 'next step']);
  });

  it('is not asked for where nothing is held', async () => {
    expect(await handedOver('{ __typename }', false, async () => true)).toEqual(['OK', 0, 0]);
  });
});

describe('other routes', () => {
  it.each(['/', '/nothing', '/uploads', '/%zz'])('%s is refused in JSON', async (path) => {
    const response = await fetch(`${server.url}${path}`);
    expect([400, 404]).toContain(response.status);
    expect(['NOT_FOUND', 'BAD_USER_INPUT']).toContain(await codeOf(response));
    expect(response.headers.get('x-request-id')).not.toBeNull();
  });

  it('health is a matter of the process, readiness of its state', async () => {
    const status = async (path: string) => (await fetch(`${server.url}${path}`)).status;
    expect([await status('/healthz'), await status('/readyz')]).toEqual([200, 200]);
    ready = false;
    expect([await status('/healthz'), await status('/readyz')]).toEqual([200, 503]);
    ready = true;
  });

  it('the audit answers the holder of the token; for others it does not exist', async () => {
    const audit = (token: string, query = '') =>
      fetch(`${server.url}/admin/audit${query}`, { method: 'POST', headers: { 'x-mercato-admin': token } });
    expect(await (await audit('let me in')).json()).toEqual({ clean: true });
    expect(await (await audit('let me in', '?tenant=acme')).json()).toEqual({ clean: 'acme' });
    const nothing = await (await fetch(`${server.url}/admin/nothing`, { method: 'POST' })).text();
    expect(await (await audit('let me ip')).text()).toBe(nothing);
    expect(await (await audit('')).text()).toBe(nothing);
  });

  it('GraphiQL loads nothing from elsewhere', async () => {
    const response = await fetch(`${server.url}/graphql`, { headers: { accept: 'text/html' } });
    const page = await response.text();
    expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8');
    expect(page).not.toMatch(/https?:\/\//);
    expect(response.headers.get('content-security-policy')).toContain("default-src 'none'; script-src 'self' 'sha256-");
    const assets = [...page.matchAll(/"(\/graphql\/static\/[^"]+\.\w+)"/g)].map(([, path]) => path);
    expect(assets.length).toBeGreaterThan(0);
    for (const asset of assets) {
      const { status, headers } = await fetch(`${server.url}${asset}`);
      expect([status, headers.get('content-type')]).toEqual([200, expect.stringMatching(/^text\/(css|javascript)/)]);
    }
    expect((await fetch(`${server.url}/graphql/static/../../package.json`)).status).toBe(404);
  });

  it('GraphiQL is off where it is not asked for', async () => {
    await using production = await startTinyServer({ typeDefs, resolvers }, { graphiql: false });
    expect((await fetch(`${production.url}/graphql`)).status).toBe(404);
    expect((await fetch(`${production.url}/graphql/static/ruru.js`)).status).toBe(404);
  });
});

describe('an upload', () => {
  const put = (token: string, body: Uint8Array<ArrayBuffer>, type?: string) =>
    fetch(`${server.url}/uploads/${token}`, { method: 'PUT', body, headers: type === undefined ? {} : { 'content-type': type } });

  it.each(['application/octet-stream', 'application/json', 'text/plain', undefined])(
    'of type %s streams past the JSON limit',
    async (type) => {
      const response = await put('open', new Uint8Array(3_000_000), type);
      expect(await response.json()).toEqual({ sha256: 'abc', sizeBytes: '3000000' });
    },
  );

  it('that fails answers with the status of its error', async () => {
    const response = await put('other', new Uint8Array(10));
    expect(response.status).toBe(404);
    expect(await codeOf(response)).toBe('NOT_FOUND');
  });

  it('that announces more than a model may have is refused before its first byte', async () => {
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
    socket.write(`PUT /uploads/open HTTP/1.1\r\nhost: x\r\ncontent-length: ${LIMITS.modelBytesMax + 1}\r\n\r\n`);
    const [answer] = (await once(socket, 'data')) as [Buffer];
    socket.destroy();
    expect(answer.toString()).toMatch(/^HTTP\/1\.1 413 [\s\S]*PAYLOAD_TOO_LARGE/);
  });
});
