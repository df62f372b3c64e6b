import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Access, type AccessOptions, createAccess, type Principal } from '../../src/access/access.ts';
import { Heart } from '../../src/access/invalidation.ts';
import type { Clock } from '../../src/base/clock.ts';
import { createLog } from '../../src/base/log.ts';
import { openTestDatabase } from '../support/database.ts';

export const PASSWORD = 'correct horse battery';

/** A clock that stands still until it is moved. */
export class TestClock implements Clock {
  ms = Date.now();
  wallMs = () => this.ms;
  monotonicMs = () => this.ms;
  pass(ms: number): void {
    this.ms += ms;
  }
}

/** One fresh database, and server processes on it that share a data directory. */
export async function openServers() {
  const stack = new AsyncDisposableStack();
  const db = stack.use(await openTestDatabase());
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-access-'));
  stack.defer(() => rm(dataDir, { recursive: true }));
  const clock = new TestClock();
  const openAccess = async (options: Partial<AccessOptions> = {}): Promise<Access> =>
    stack.use(await createAccess({ db, dataDir, jwtKeys: null, log: createLog('silent'), clock, ...options }));
  return { db, dataDir, clock, openAccess, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

let names = 0;

/** A new user with a tenant of its own. */
export async function signUp(access: Access) {
  const name = `tenant-${++names}`;
  const signedIn = await access.signUp({ email: `${name}@example.com`, password: PASSWORD, tenantName: name });
  return { ...signedIn, principal: await bearer(access, signedIn.tokens.accessToken) };
}

export async function bearer(access: Access, token: string): Promise<Principal> {
  const principal = await access.authenticate({ authorization: `Bearer ${token}` });
  if (principal === null) throw new Error('not authenticated');
  return principal;
}

/** One heartbeat now. */
export async function beat(access: Access): Promise<void> {
  if (!(access.invalidations instanceof Heart)) throw new Error('not a heart');
  await access.invalidations.beat();
}

export async function pending(promise: Promise<unknown>): Promise<boolean> {
  return Promise.race([promise.then(() => false), new Promise<boolean>((resolve) => setImmediate(resolve, true))]);
}
