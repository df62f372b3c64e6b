import { randomBytes } from 'node:crypto';
import { hash, type Options, verify } from '@node-rs/argon2';
import { badInput, MercatoError } from '../base/errors.ts';

/** OWASP's second choice for argon2id, which is the library's default algorithm: 19 MiB, 2 passes, 1 lane. About 30 ms. */
const COST: Options = { memoryCost: 19_456, timeCost: 2, parallelism: 1 };
/** Two of the four threads of libuv's pool; files and DNS keep the others. */
const PARALLEL = 2;
/** About a second of work: beyond it a flood of sign-ins is told to come back. */
const WAITING_MAX = 64;

export type Passwords = {
  /** @throws OVERLOADED */
  hash(password: string): Promise<string>;
  /** False also for a null hash, at the same cost, so that time does not tell whether a user exists. @throws OVERLOADED */
  matches(hash: string | null, password: string): Promise<boolean>;
};

/** 10–200 characters. @throws BAD_USER_INPUT, which does not repeat the password */
export function checkPassword(password: string): string {
  if (isAcceptable(password)) return password;
  throw badInput('password', 'The password must have 10 to 200 characters.', { expected: '10 to 200 characters' });
}

/** Argon2id on the thread pool, a few at a time. */
export function createPasswords(): Passwords {
  const queued = createQueue();
  const nobody = hash(randomBytes(32), COST);
  return {
    hash: (password) => queued(() => hash(normal(password), COST)),
    matches: (stored, password) =>
      queued(async () => {
        const candidate = isAcceptable(password) ? normal(password) : '';
        return (await verify(stored ?? (await nobody), candidate)) && stored !== null;
      }),
  };
}

/** Runs `PARALLEL` at once and lets `WAITING_MAX` wait, first come first served. */
function createQueue(): <T>(work: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = [];
  let running = 0;
  return async (work) => {
    if (running < PARALLEL) running++;
    else if (waiting.length >= WAITING_MAX) throw new MercatoError('OVERLOADED', undefined, { retryAfterMs: 2_000 });
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else running--;
    }
  };
}

function isAcceptable(password: string): boolean {
  if (password.length > 400) return false;
  const characters = [...password].length;
  return characters >= 10 && characters <= 200;
}

/** The same characters typed on another keyboard are the same password (NIST SP 800-63B, 5.1.1.2). */
function normal(password: string): string {
  return password.normalize('NFKC');
}
