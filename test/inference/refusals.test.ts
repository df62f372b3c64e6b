import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { connectRunner, type Place, type RunnerConnection } from '../../src/inference/connection.ts';
import type { FleetPort } from '../../src/inference/fleet-port.ts';
import { FRAME, frameReader, writeFrame } from '../../src/inference/frames.ts';
import { Hosts } from '../../src/inference/hosts.ts';
import { REFUSES_MS_MAX, Refusals } from '../../src/inference/refusals.ts';
import { versionOf } from './setup.ts';
import { identityModel } from './tiny-models.ts';

const call = { tenantKey: 'a', priority: 1, deadlineMs: 200, rows: 4, bytes: 64 };
const refusal = { message: 'busy', data: { retryAfterMs: 50 } };

describe('what a runner refused a moment ago', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }));
  afterEach(() => void vi.useRealTimers());

  test('is refused again to its tenant without more priority or time, and not to smaller calls or anybody else', () => {
    const refusals = new Refusals();
    refusals.add(call, refusal, 8);
    expect(refusals.of(call)).toMatchObject({ code: 'OVERLOADED', message: 'busy', data: { retryAfterMs: 50 } });
    expect(refusals.of({ ...call, priority: 0, deadlineMs: 20, rows: 5, bytes: 65 })).not.toBeNull();
    for (const other of [{ tenantKey: 'b' }, { priority: 2 }, { deadlineMs: 300 }, { rows: 3 }, { bytes: 63 }])
      expect(refusals.of({ ...call, ...other })).toBeNull();
  });

  test('is forgotten after the time that the runner said, which is never long', () => {
    const refusals = new Refusals();
    refusals.add(call, refusal, 8);
    expect(refusals.has('a')).toBe(true);
    vi.advanceTimersByTime(8);
    expect([refusals.of(call), refusals.has('a')]).toEqual([null, false]);
    refusals.add(call, refusal, 60_000);
    vi.advanceTimersByTime(REFUSES_MS_MAX);
    expect(refusals.of(call)).toBeNull();
    for (const forMs of [0, -1, Number.NaN]) refusals.add(call, refusal, forMs);
    expect(refusals.of(call)).toBeNull();
  });

  test('does not reach the runner again with a call like it, one of another tenant does', async () => {
    const runner = await listening('busy');
    const connection = await connectRunner(placeOf(runner), () => {});
    onTestFinished(() => connection.close());
    const codes = [await ask(connection, 'a'), await ask(connection, 'a'), await ask(connection, 'b')];
    expect(codes).toEqual(['OVERLOADED', 'OVERLOADED', 'OVERLOADED']);
    expect(runner.seen).toEqual(['a', 'b']);
    const rules = [await ask(connection, 'c', ruleOf), await ask(connection, 'c', ruleOf)];
    expect(rules).toEqual(['DEADLINE', 'DEADLINE']);
    expect(runner.seen).toEqual(['a', 'b', 'c']);
  });

  test('sends the calls that follow to another replica', async () => {
    const [busy, idle] = [await listening('busy'), await listening('idle')];
    let place = (_versionId: string, _place: Place) => {};
    const fleet = {
      onPlace: (told: typeof place) => {
        place = told;
      },
      claim: async () => [placeOf(busy)],
    } as unknown as FleetPort;
    const hosts = new Hosts(fleet);
    onTestFinished(() => hosts.close());
    const version = versionOf(identityModel());
    expect(await ask(await hosts.enter(version, 'a'), 'a')).toBe('OVERLOADED');
    place(version.id, placeOf(idle));
    for (let tried = 0; tried < 1_000 && idle.seen.length === 0; tried++) {
      await turn();
      await ask(await hosts.enter(version, 'a'), 'a');
    }
    expect(await ask(await hosts.enter(version, 'a'), 'a')).toMatchObject({ batchRows: 1 });
    expect(busy.seen).toEqual(['a']);
  });
});

const placeOf = ({ path }: { path: string }): Place => ({ path, device: 'cpu' });

type Refused = { code: string; data: { rule?: string } };
const codeOf = ({ code }: Refused): string | undefined => code;
const ruleOf = ({ data }: Refused): string | undefined => data.rule;

const ask = (connection: RunnerConnection, tenantKey: string, told = codeOf) =>
  connection
    .call(
      { tenantKey, priority: 0, outputs: null, alone: false, rows: 1, inputs: [] },
      { expiresMs: performance.now() + 1_000, signal: undefined },
    )
    .catch(told);

/** A runner's end of the wire, which refuses every call or answers it at once, and whose calls came. */
async function listening(kind: 'busy' | 'idle'): Promise<{ path: string; seen: string[] }> {
  const folder = await mkdtemp(join(tmpdir(), 'mercato-'));
  const seen: string[] = [];
  const server = createServer((socket) => {
    const read = frameReader((frame) => {
      if (frame.kind !== FRAME.call) return;
      seen.push((frame.head as { tenantKey: string }).tenantKey);
      if (kind === 'busy')
        writeFrame(socket, FRAME.failed, frame.call, {
          code: 'OVERLOADED',
          rule: 'DEADLINE',
          message: 'busy',
          retryAfterMs: 50,
          forMs: 10,
        });
      else
        writeFrame(socket, FRAME.result, frame.call, {
          queueMs: 0,
          computeMs: 0,
          computeMicros: 0,
          batchRows: 1,
          device: 'cpu',
          tensors: [],
        });
    });
    socket.on('data', read);
    socket.on('error', () => {});
  });
  await new Promise<void>((resolve) => server.listen(join(folder, 's'), resolve));
  onTestFinished(async () => {
    server.close();
    await rm(folder, { recursive: true, force: true });
  });
  return { path: join(folder, 's'), seen };
}
