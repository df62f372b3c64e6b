import { type Logger, pino } from 'pino';

export type Log = Pick<Logger, 'debug' | 'info' | 'warn' | 'error' | 'fatal'> & { child(bindings: Record<string, unknown>): Log };

/** Names of fields that never reach a log, at the top or one level down. */
const SECRET_FIELDS = ['password', 'token', 'secret', 'authorization', 'cookie', 'refreshToken', 'accessToken', 'apiKey', 'uploadUrl'];
const redact = SECRET_FIELDS.flatMap((name) => [name, `*.${name}`, `*["x-api-key"]`]);

/** JSON lines on stderr, so that what `npm start` prints for a person stays readable on stdout. */
export function createLog(level: string): Log {
  return pino({ level, redact: { paths: [...new Set(redact)], censor: '[secret]' } }, pino.destination({ dest: 2, sync: false }));
}
