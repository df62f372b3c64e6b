/**
 * Preloaded into a server (`--import`): how late its event loop comes to a timer, sampled every millisecond. SIGUSR2 writes what was seen
 * since the last one to the file that BENCH_DELAY_FILE names, and begins anew.
 */
import { renameSync, writeFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';

export type Delay = { p50Ms: number; p99Ms: number; maxMs: number };

const RESOLUTION_MS = 1;
const path = process.env.BENCH_DELAY_FILE;
if (path !== undefined) watch(path);

function watch(file: string): void {
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  histogram.enable();
  process.on('SIGUSR2', () => {
    // The histogram has the time between two samples; what is more than the resolution is delay.
    const ms = (nanos: number) => Math.max(0, nanos / 1e6 - RESOLUTION_MS);
    const seen: Delay = { p50Ms: ms(histogram.percentile(50)), p99Ms: ms(histogram.percentile(99)), maxMs: ms(histogram.max) };
    writeFileSync(`${file}.new`, JSON.stringify(seen));
    renameSync(`${file}.new`, file);
    histogram.reset();
  });
}
