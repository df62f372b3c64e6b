import type { IncomingHttpHeaders } from 'node:http';
import { type Readable, Transform } from 'node:stream';
import type { FastifyInstance, preParsingHookHandler } from 'fastify';
import { MercatoError } from '../base/errors.ts';
import { HeldBytes, type Hold } from '../base/held-bytes.ts';
import { LIMITS } from '../base/limits.ts';

/** Too few to be counted. */
const SMALL_BYTES = 64 * 1024;
/** What comes slower keeps room from others. */
const BODY_MS_MAX = 2 * LIMITS.deadlineMsMax;

declare module 'fastify' {
  interface FastifyRequest {
    /** The room of its body until its answer has left; null where that is small. */
    bodyHold: Hold | null;
  }
}

/**
 * Counts what bodies over 64 KiB hold while they come in and until their answers have left, of whoever their credentials say before it is known whose they are. Others are refused
 * with OVERLOADED, and with DEADLINE_EXCEEDED what takes longer than two minutes.
 */
export function countBodies(fastify: FastifyInstance, bytesMax: number): preParsingHookHandler {
  const bodies = new HeldBytes(bytesMax, { rule: 'LARGE_REQUESTS', message: 'Large requests take all room; try again shortly.' });
  fastify.decorateRequest('bodyHold', null);
  return (request, reply, payload, done) => {
    if (isSmall(request.headers)) return done(null, payload);
    // No tenant's id: whoever sends one as its credentials is not that tenant.
    const hold = bodies.hold(`credentials ${request.headers.authorization ?? request.headers['x-api-key']}`);
    request.bodyHold = hold;
    const body = payload as Readable;
    const through = counted(body, hold);
    reply.raw.once('close', () => {
      hold.release();
      // What is answered before all of it came is read to its end, or no other request could follow on its connection.
      body.unpipe(through).resume();
      through.destroy();
    });
    done(null, through);
  };
}

function isSmall({ 'content-length': length, 'transfer-encoding': encoding }: IncomingHttpHeaders): boolean {
  return length === undefined ? encoding === undefined : Number(length) <= SMALL_BYTES;
}

function counted(body: Readable, hold: Hold): Transform {
  const through = new Transform({
    transform(chunk: Buffer, _, next) {
      try {
        hold.grow(chunk.length);
        next(null, chunk);
      } catch (error) {
        next(error as MercatoError);
      }
    },
  });
  const late = setTimeout(() => {
    const message = `The body did not come within ${BODY_MS_MAX} ms.`;
    through.destroy(new MercatoError('DEADLINE_EXCEEDED', message, { limit: String(BODY_MS_MAX) }));
  }, BODY_MS_MAX);
  // Whoever reads it may have gone: without a listener it would end the process.
  through.on('error', () => {});
  through.once('close', () => clearTimeout(late));
  body.once('error', (error) => through.destroy(error));
  body.once('close', () => through.destroy());
  return body.pipe(through);
}
