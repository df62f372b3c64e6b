import { createHash } from 'node:crypto';
import type { FastifyInstance } from 'fastify';

const STATIC_PATH = '/graphql/static/';

/**
 * GraphiQL at GET /graphql, all of it from this server. Its scripts in the page are known by their hashes, so that the policy needs no
 * 'unsafe-inline' for scripts; the editor sets styles from JavaScript and runs its language services in workers.
 */
export async function addGraphiql(fastify: FastifyInstance): Promise<void> {
  const [{ ruruHTML }, { getStaticFile }] = await Promise.all([import('ruru/server'), import('ruru/static')]);
  const page = ruruHTML({ endpoint: '/graphql', staticPath: STATIC_PATH, htmlParts: { titleTag: '<title>Mercato</title>' } });
  const policy = [
    "default-src 'none'",
    `script-src 'self' ${scriptHashes(page).join(' ')}`,
    "style-src 'self' 'unsafe-inline'",
    "font-src 'self' data:",
    "img-src 'self' data:",
    "connect-src 'self'",
    "worker-src 'self' blob:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ');

  fastify.get('/graphql', (_, reply) => {
    reply.type('text/html; charset=utf-8').header('content-security-policy', policy).send(page);
  });
  fastify.get(`${STATIC_PATH}*`, async (request, reply) => {
    const acceptEncoding = request.headers['accept-encoding'];
    const file = await getStaticFile({ staticPath: STATIC_PATH, urlPath: request.url, acceptEncoding, disallowDevAssets: true });
    if (file === null) return reply.callNotFound();
    reply.headers({ ...file.headers, 'cache-control': 'no-cache', vary: 'accept-encoding' });
    if (request.headers['if-none-match'] === file.headers.etag) return reply.code(304).send();
    return reply.send(file.content);
  });
}

function scriptHashes(page: string): string[] {
  const scripts = page.matchAll(/<script[^>]*>([\s\S]*?)<\/script>/g);
  return [...scripts].map(([, script = '']) => `'sha256-${createHash('sha256').update(script).digest('base64')}'`);
}
