import { describe, expect, it } from 'vitest';
import { HELD_MAX, HOLD_MS_MAX, RefusalPace } from '../../src/prediction/refusal-pace.ts';

const never = new AbortController().signal;
const turns = (pace: RefusalPace, count: number, tenant: string, nowMs: number) =>
  Array.from({ length: count }, () => pace.turnMs(tenant, nowMs));

describe('the pace of refusals', () => {
  it('lets twenty of a moment go at once, then one every 50 ms, none of them after more than its bound', () => {
    const pace = new RefusalPace();
    expect(turns(pace, 24, 'a', 10_000)).toEqual([...new Array(21).fill(0), 50, 100, 150]);
    expect(Math.max(...turns(pace, 500, 'a', 10_000))).toBe(HOLD_MS_MAX);
    expect(pace.turnMs('b', 10_000)).toBe(0);
  });

  it('forgets within its bound, and the burst with time', () => {
    const pace = new RefusalPace();
    turns(pace, 500, 'a', 10_000);
    expect(turns(pace, 2, 'a', 10_000 + HOLD_MS_MAX)).toEqual([0, 50]);
    expect(turns(pace, 22, 'a', 20_000)).toEqual([...new Array(21).fill(0), 50]);
  });

  it('keeps the tenants that are held, however many others come', () => {
    const pace = new RefusalPace();
    turns(pace, 500, 'a', 10_000);
    for (let i = 0; i < 2_000; i++) pace.turnMs(`other-${i}`, 10_000);
    expect(pace.turnMs('a', 10_000)).toBe(HOLD_MS_MAX);
  });

  it("waits no longer than the call's time, than its caller, or where many wait", async () => {
    const pace = new RefusalPace();
    turns(pace, 500, 'a', performance.now());
    await pace.hold('a', 60_000, AbortSignal.abort());

    const order: string[] = [];
    const long = pace.hold('a', 60_000, never).then(() => order.push('long'));
    await pace.hold('a', 1, never).then(() => order.push('short'));
    await long;
    expect(order.splice(0)).toEqual(['short', 'long']);
    turns(pace, 500, 'a', performance.now());
    const leaving = new AbortController();
    const held = Array.from({ length: HELD_MAX }, () => pace.hold('a', 60_000, leaving.signal).then(() => order.push('held')));
    await pace.hold('a', 60_000, never).then(() => order.push('one too many'));
    leaving.abort();
    await Promise.all(held);
    expect(order).toEqual(['one too many', ...new Array(HELD_MAX).fill('held')]);
  });
});
