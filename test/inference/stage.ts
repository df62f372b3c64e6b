import { vi } from 'vitest';
import { joinKey } from '../../src/inference/batch.ts';
import { type Call, Dispatcher, type DispatchSettings } from '../../src/inference/dispatcher.ts';
import type { Tensor } from '../../src/inference/tensor.ts';
import { floats, numbersOf } from './setup.ts';

export const SETTINGS: DispatchSettings = { joinable: true, shared: false, maxBatchRows: 4, fixedRows: null, runLimitMs: 1_000 };

/** A dispatcher over a session thread that the test plays itself, by fake timers. */
export function stage(changes: Partial<DispatchSettings> = {}) {
  const settings = { ...SETTINGS, ...changes };
  const runs: { batch: number; inputs: readonly Tensor[]; rows: number[] }[] = [];
  let reads = 0;
  const log: string[] = [];
  const dispatcher = new Dispatcher(settings, {
    run: (batch, inputs) => runs.push({ batch, inputs, rows: numbersOf(inputs[0]) }),
    die: () => log.push('died'),
  });
  const calls = new Map<string, Call>();
  function add(name: string, values: readonly number[], given: Partial<Call> = {}): void {
    const shape = [values.length, 1];
    const body = { rows: values.length, inputs: [floats(shape, values)], outputs: null, ...given };
    const call: Call = {
      tenantKey: name.slice(0, 1),
      priority: 0,
      bytes: 4,
      joinKey: settings.joinable ? joinKey(body) : null,
      arrivedMs: performance.now(),
      expiresMs: Number.POSITIVE_INFINITY,
      begin: () => log.push(`${name} begins`),
      answer: (outputs, { batchRows }) => log.push(`${name}: ${numbersOf(outputs[0])} of ${batchRows}`),
      refuse: ({ code, message, fatal }) => log.push(`${name}: ${code} ${message}${fatal === true ? ' fatal' : ''}`),
      ...body,
    };
    const countedRows = () => {
      reads++;
      return body.rows;
    };
    Object.defineProperty(call, 'rows', { get: countedRows });
    calls.set(name, call);
    dispatcher.accept(call);
  }
  const cancel = (name: string) => {
    const call = calls.get(name);
    if (call !== undefined) dispatcher.cancel(call);
  };
  /** The current run gives back its inputs, after so long. */
  const echo = (runMs = 1) => {
    const run = runs.at(-1);
    vi.advanceTimersByTime(runMs);
    dispatcher.ran(run?.batch ?? 0, run?.inputs ?? [], runMs);
  };
  /** How often the rows of calls were asked for so far. */
  const rowReads = () => reads;
  return { dispatcher, runs, log, add, cancel, echo, rowReads };
}
