import type { InferenceSession } from 'onnxruntime-node';
import { openSession, type Session } from '../net/net.ts';
import { fixedRows, type Rows, spans } from './batches.ts';
import { type Agreement, type Difference, Differences } from './differences.ts';

/** Medians of runs of `batch` rows, in milliseconds. */
export type Latency = { batch: number; sourceMs: number; optimisedMs: number };

/**
 * What an optimisation did to a model. `difference`: absolute, of outputs of fractions; `agreement`: of others, such as labels.
 */
export type Report = {
  sizeBytes: { source: number; optimised: number };
  latency: Latency[];
  difference: Difference[];
  agreement: Agreement[];
};

const ROWS_PER_RUN = 64;
const WARM_RUNS = 3;
const REPEATS = { least: 7, most: 201, ms: 500 } as const;

/**
 * Runs both models on the rows: outputs are compared on all of them, and each batch size is timed on the first rows, both models by turns,
 * one thread, until REPEATS are reached. Batch sizes beyond the rows, or others than the model fixes, are left out. Errors: what the
 * runtime says where a model does not take the rows.
 */
export async function compareModels(
  source: Uint8Array,
  optimised: Uint8Array,
  { feeds, rows, batches }: Rows & { batches: readonly number[] },
): Promise<Report> {
  const fixed = fixedRows(source);
  const before = await openSession(source);
  try {
    const after = await openSession(optimised);
    try {
      const differences = new Differences(before.outputNames);
      for (const [from, to] of spans(rows, ROWS_PER_RUN, fixed)) {
        const given = feeds(from, to);
        differences.add(await before.run(given), await after.run(given));
      }
      const sizes = fixed === null ? batches.filter((one) => one <= rows) : rows < fixed ? [] : [fixed];
      const latency: Latency[] = [];
      for (const batch of sizes) latency.push({ batch, ...(await time(before, after, feeds(0, batch))) });
      const sizeBytes = { source: source.length, optimised: optimised.length };
      return { sizeBytes, latency, difference: differences.worst(), agreement: differences.agreement() };
    } finally {
      await after.release();
    }
  } finally {
    await before.release();
  }
}

async function time(before: Session, after: Session, given: InferenceSession.FeedsType): Promise<Omit<Latency, 'batch'>> {
  for (let run = 0; run < WARM_RUNS; run++) for (const one of [before, after]) await one.run(given);
  const times: [number[], number[]] = [[], []];
  const endMs = performance.now() + REPEATS.ms;
  for (let run = 0; run < REPEATS.most && (run < REPEATS.least || performance.now() < endMs); run++) {
    const order = run % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const);
    for (const which of order) times[which].push(await timed([before, after][which] ?? before, given));
  }
  return { sourceMs: median(times[0]), optimisedMs: median(times[1]) };
}

async function timed(session: Session, given: InferenceSession.FeedsType): Promise<number> {
  const startMs = performance.now();
  await session.run(given);
  return performance.now() - startMs;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}
