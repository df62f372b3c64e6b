/** A worker process: carries out one order in its working directory, then waits to be ended. It ends with its parent. */
import { once } from 'node:events';
import { MercatoError } from '../base/errors.ts';
import { profileOf, readTable } from './data/data.ts';
import type { Answer, FromWorker, Order, Progress, ToWorker } from './orders.ts';
import { evaluateModel, optimise, train } from './performances.ts';
import type { WorkError } from './work.ts';

type Said<T> = T extends unknown ? Omit<T, 'cpuMicros'> : never;

process.on('disconnect', () => process.exit());
const [first] = (await once(process, 'message')) as [ToWorker];
if ('order' in first) await carryOut(first.order);

async function carryOut(order: Order): Promise<void> {
  try {
    say({ answer: await perform(order) });
  } catch (error) {
    const refusal = refusalOf(error);
    if (refusal === null) throw error;
    say({ refusal });
  }
}

async function perform(order: Order): Promise<Answer[Order['kind']]> {
  switch (order.kind) {
    case 'PROFILE':
      return profileOf(await readTable(order.dataset.file, order.dataset.format, order.dataset));
    case 'TRAIN':
      return train(order, progress);
    case 'EVALUATE':
      return evaluateModel(order);
    case 'OPTIMISE':
      return optimise(order);
  }
}

/** Waits until what was reached is kept. */
async function progress(reached: Progress): Promise<void> {
  const heard = once(process, 'message');
  say({ progress: reached });
  await heard;
}

function say(message: Said<FromWorker>): void {
  const { user, system } = process.cpuUsage();
  process.send?.({ ...message, cpuMicros: user + system });
}

/**
 * What the owner of the work can mend. Of a RangeError, as `layers[2]: …`, the field is what stands before the colon. Memory that ends is for whoever
 * reads the standard error.
 */
function refusalOf(error: unknown): WorkError | null {
  if (error instanceof MercatoError) return { code: error.code, message: error.message, field: error.data.field ?? null };
  if (!(error instanceof RangeError) || /allocation failed|invalid array length/i.test(error.message)) return null;
  const [, field = null, text = error.message] = /^([a-z]\w*(?:\[\d+\])?): (.*)$/is.exec(error.message) ?? [];
  return { code: 'BAD_USER_INPUT', message: `${text}.`, field };
}
