import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { connectRunner } from '../../src/inference/connection.ts';
import { FRAME, frameReader, writeFrame } from '../../src/inference/frames.ts';
import { REFUSES_MS_MAX, Refusals } from '../../src/inference/refusals.ts';

const call = { tenantKey: 'a', priority: 1, deadlineMs: 200 };
const refusal = { message: 'busy', retryAfterMs: 50, forMs: 8 };

describe('what a runner refused a moment ago', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }));
  afterEach(() => void vi.useRealTimers());

  test('is refused again to its tenant without more priority or time, and to nobody else', () => {
    const refusals = new Refusals();
    refusals.add(call, refusal);
    expect(refusals.of(call)).toMatchObject({ code: 'OVERLOADED', message: 'busy', data: { retryAfterMs: 50 } });
    expect(refusals.of({ ...call, priority: 0, deadlineMs: 20 })).not.toBeNull();
    for (const other of [{ tenantKey: 'b' }, { priority: 2 }, { deadlineMs: 300 }]) expect(refusals.of({ ...call, ...other })).toBeNull();
  });

  test('is forgotten after the time that the runner said, which is never long', () => {
    const refusals = new Refusals();
    refusals.add(call, refusal);
    vi.advanceTimersByTime(8);
    expect(refusals.of(call)).toBeNull();
    refusals.add(call, { ...refusal, forMs: 60_000 });
    vi.advanceTimersByTime(REFUSES_MS_MAX);
    expect(refusals.of(call)).toBeNull();
    for (const forMs of [0, -1, Number.NaN]) refusals.add(call, { ...refusal, forMs });
    expect(refusals.of(call)).toBeNull();
  });

  test('a call like one that was just refused does not reach the runner, one of another tenant does', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'mercato-'));
    const seen: string[] = [];
    const server = createServer((socket) => {
      const read = frameReader(({ kind, call: id, head }) => {
        if (kind !== FRAME.call) return;
        seen.push((head as { tenantKey: string }).tenantKey);
        writeFrame(socket, FRAME.failed, id, { code: 'OVERLOADED', message: 'busy', retryAfterMs: 50, forMs: 10 });
      });
      socket.on('data', read);
      socket.on('error', () => {});
    });
    await new Promise<void>((resolve) => server.listen(join(folder, 's'), resolve));
    const connection = await connectRunner(join(folder, 's'), () => {});
    onTestFinished(async () => {
      connection.close();
      server.close();
      await rm(folder, { recursive: true, force: true });
    });
    const ask = (tenantKey: string) =>
      connection
        .call(
          { tenantKey, priority: 0, outputs: null, alone: false, rows: 1, inputs: [] },
          { expiresMs: performance.now() + 1_000, signal: undefined },
        )
        .catch((error: { code: string }) => error.code);
    const codes = [await ask('a'), await ask('a'), await ask('b')];
    expect(codes).toEqual(['OVERLOADED', 'OVERLOADED', 'OVERLOADED']);
    expect(seen).toEqual(['a', 'b']);
  });
});
