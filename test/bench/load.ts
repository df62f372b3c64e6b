import { runJson } from './processes.ts';

/** What one sender sends: the same POST again and again, each connection as soon as it has its answer. */
export type LoadOrder = {
  url: string;
  headers: Record<string, string>;
  body: string;
  connections: number;
  seconds: number;
  /** Of each connection, after an answer; without it autocannon sends, as fast as it can. */
  pauseMs?: number;
};

/** `failed`: no answer, a status other than 2xx, or a body that does not begin with data. Latencies as the sender saw them. */
export type Measured = {
  requests: number;
  perSecond: number;
  p50Ms: number;
  p99Ms: number;
  failed: number;
  senderSeconds: number;
};

/** What a sender measured since `startedMs`, of the monotonic clock, and `cpu`, its `process.cpuUsage()` then. */
export function measuredOf(responsesMs: readonly number[], failed: number, startedMs: number, cpu: NodeJS.CpuUsage): Measured {
  const seconds = (performance.now() - startedMs) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  const sorted = responsesMs.toSorted((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
  const [p50Ms, p99Ms] = [at(0.5), at(0.99)];
  return { requests: sorted.length, perSecond: sorted.length / seconds, p50Ms, p99Ms, failed, senderSeconds: (user + system) / 1e6 };
}

/** Loads a server from a process of its own, whatever it answers. */
export function send(order: LoadOrder): Promise<Measured> {
  return runJson<Measured>(`test/bench/${order.pauseMs === undefined ? 'sender' : 'paced'}.ts`, [], JSON.stringify(order));
}

/** Loads a server from a process of its own. @throws Error where a request failed: its figures would be of something else */
export async function load(order: LoadOrder): Promise<Measured> {
  const measured = await send(order);
  if (measured.failed > 0 || measured.requests === 0) throw new Error(`${measured.failed} of ${measured.requests} requests failed`);
  return measured;
}
