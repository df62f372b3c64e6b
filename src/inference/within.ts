import { gaveUp } from '../base/errors.ts';
import type { Patience } from './connection.ts';

/** Waits as long as the caller does; what is waited for goes on without it. @throws DEADLINE_EXCEEDED, CANCELLED */
export function within<T>(promise: Promise<T>, { expiresMs, signal }: Patience): Promise<T> {
  return new Promise((resolve, reject) => {
    const giveUp = () => {
      settle();
      reject(gaveUp(signal));
    };
    const timer = setTimeout(giveUp, expiresMs - performance.now());
    const settle = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', giveUp);
    };
    signal?.addEventListener('abort', giveUp);
    if (signal?.aborted === true) giveUp();
    promise.then(resolve, reject).finally(settle);
  });
}
