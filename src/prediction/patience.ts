import { gaveUp } from '../base/errors.ts';

/** Waits as long as the caller does; what comes later goes to `late`. @throws DEADLINE_EXCEEDED, CANCELLED */
export function inTime<T>(promise: Promise<T>, ms: number, signal: AbortSignal, late: (value: T) => void = () => {}): Promise<T> {
  return new Promise((resolve, reject) => {
    let waiting = true;
    const stop = () => {
      waiting = false;
      clearTimeout(timer);
      signal.removeEventListener('abort', giveUp);
    };
    const giveUp = () => {
      stop();
      reject(gaveUp(signal));
    };
    const timer = setTimeout(giveUp, Math.max(0, ms));
    signal.addEventListener('abort', giveUp);
    promise.then(
      (value) => {
        if (!waiting) return late(value);
        stop();
        resolve(value);
      },
      (error: unknown) => {
        if (waiting) stop();
        reject(error);
      },
    );
  });
}
