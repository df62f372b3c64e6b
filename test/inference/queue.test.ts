import { describe, expect, test } from 'vitest';
import { CallQueue, QUEUE_BYTES_MAX, QUEUE_CALLS_MAX } from '../../src/inference/queue.ts';

const call = (name: string, priority = 0, bytes = 1, rows = 1, joinKey: string | null = 'x') => ({
  ...{ name, tenantKey: name.slice(0, 1) },
  ...{ priority, bytes, rows, joinKey },
});

/** Whose rows run before a call, by the queue. */
function ahead(queue: CallQueue<ReturnType<typeof call>>, one: ReturnType<typeof call>): [string, number][] {
  const parts = queue.ahead(one, ({ rows }) => rows).filter(({ part }) => part > 0);
  return parts.map(({ lane, part }) => [lane.tenantKey, Math.round(part * lane.rows * 1e6) / 1e6]);
}

function drain(names: ReturnType<typeof call>[]): string[] {
  const queue = new CallQueue<ReturnType<typeof call>>();
  for (const one of names) expect(queue.add(one)).toBe(true);
  const order: string[] = [];
  for (let next = queue.take(); next !== null; next = queue.take()) order.push(next.name);
  expect(queue.size).toBe(0);
  return order;
}

describe('the queue of a runner', () => {
  test('gives the tenants of one priority their turns, whoever asked most', () => {
    expect(drain([call('a1'), call('a2'), call('a3'), call('b1'), call('c1'), call('b2')])).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3']);
  });

  test('gives the tenants equal rows, whatever the size of their calls', () => {
    const large = ['a1', 'a2'].map((name) => call(name, 0, 1, 4));
    const small = Array.from({ length: 8 }, (_, index) => call(`b${index}`));
    expect(drain([...large, ...small])).toEqual(['a1', 'b0', 'b1', 'b2', 'b3', 'a2', 'b4', 'b5', 'b6', 'b7']);
  });

  test('owes the others what a tenant takes beyond its turn to fill a run', () => {
    const queue = new CallQueue<ReturnType<typeof call>>();
    for (const name of ['a1', 'b1', 'a2', 'b2', 'a3', 'b3', 'a4', 'b4', 'a5', 'a6']) queue.add(call(name));
    let room = 3;
    const taken = queue.takeWhile(({ tenantKey }) => (tenantKey === 'b' ? 'skip' : room-- > 0 ? 'take' : 'stop'));
    expect(taken.map(({ name }) => name)).toEqual(['a1', 'a2', 'a3']);
    const rest = Array.from({ length: 7 }, () => queue.take()?.name);
    expect(rest).toEqual(['b1', 'b2', 'b3', 'a4', 'b4', 'a5', 'a6']);
  });

  /** Tenants whose calls have used up what they had saved. */
  function busy(tenants: readonly string[]): CallQueue<ReturnType<typeof call>> {
    const queue = new CallQueue<ReturnType<typeof call>>();
    for (let index = 0; index < 40; index++) for (const tenant of tenants) queue.add(call(`${tenant}${index}`));
    for (let taken = 0; taken < 10 * tenants.length; taken++) queue.take();
    return queue;
  }

  test('lets a tenant that asks for less than its share run before those that always ask', () => {
    const queue = busy(['a', 'b']);
    for (const one of [call('q1'), call('q2')]) queue.add(one);
    expect(ahead(queue, call('r1'))).toEqual([['q', 1]]);
    expect(Array.from({ length: 3 }, () => queue.take()?.name)).toEqual(['q1', 'q2', 'a10']);
  });

  test('lets nobody save more than a few rows', () => {
    const queue = busy(['a']);
    for (let index = 0; index < 20; index++) queue.add(call(`q${index}`));
    const served = Array.from({ length: 20 }, () => queue.take()?.tenantKey);
    expect(served.slice(0, 7)).toEqual(Array.from({ length: 7 }, () => 'q'));
    const beyond = served.filter((tenant) => tenant === 'q').length - served.filter((tenant) => tenant === 'a').length;
    expect(beyond).toBeLessThanOrEqual(8);
  });

  test('lets many that come anew keep nobody waiting for long', () => {
    const queue = busy(['a']);
    const one = (tenant: number) => ({ ...call('n'), tenantKey: `n${tenant}` });
    for (let tenant = 0; tenant < 200; tenant++) queue.add(one(tenant));
    const served: string[] = [];
    // Each asks again as soon as it is answered.
    while (served.length < 600) {
      const next = queue.take();
      served.push(next?.tenantKey ?? '');
      if (next?.tenantKey.startsWith('n')) queue.add({ ...next });
    }
    expect(served.indexOf('a')).toBeGreaterThan(-1);
    expect(served.indexOf('a')).toBeLessThanOrEqual(200 + 64);
  });

  test('keeps nothing of what was saved for a call that is cancelled', () => {
    const queue = busy(['a']);
    const large = call('q', 0, 1, 1_000);
    queue.add(large);
    for (let taken = 0; taken < 25; taken++) queue.take();
    queue.remove(large);
    for (let index = 0; index < 5; index++) queue.add(call(`a5${index}`));
    for (let index = 0; index < 20; index++) queue.add(call(`q${index}`));
    const served = Array.from({ length: 12 }, () => queue.take()?.tenantKey);
    expect(served.indexOf('a')).toBeLessThanOrEqual(8);
    expect(served).toContain('a');
  });

  test('counts a call without rows as one', () => {
    const queue = new CallQueue<ReturnType<typeof call>>();
    for (const name of ['h1', 'h2', 'h3']) queue.add(call(name, 5, 1, 0));
    expect(ahead(queue, call('a', 0, 1, 0))).toEqual([['h', 3]]);
  });

  test('lets a call that is larger than what its tenant has saved wait until the others had as much', () => {
    const queue = busy(['a']);
    queue.add(call('q', 0, 1, 20));
    expect(ahead(queue, call('r', 0, 1, 20))).toEqual([
      ['a', 12],
      ['q', 20],
    ]);
    const served = Array.from({ length: 14 }, () => queue.take()?.tenantKey);
    expect(served.indexOf('q')).toBe(11);
  });

  test('gives a tenant that asks again whenever it is answered no more than its turns', () => {
    const queue = busy(['a', 'b', 'c']);
    const served: string[] = [];
    for (let turn = 0; turn < 60; turn++) {
      const next = queue.take();
      // Its next call comes while the run after its own is under way.
      if (turn === 0 || served.at(-1) === 'q') queue.add(call('q'));
      served.push(next?.tenantKey ?? '');
    }
    const ofTenant = (name: string) => served.filter((tenant) => tenant === name).length;
    expect(ofTenant('q')).toBeLessThanOrEqual(60 / 4 + 8);
    expect(ofTenant('a')).toBeGreaterThanOrEqual((60 - ofTenant('q') - 2) / 3);
  });

  test('knows what runs before a new call: its own, higher priorities, and of others no more than its own', () => {
    const queue = new CallQueue<ReturnType<typeof call>>();
    for (const one of [call('a1'), call('b1', 0, 1, 9), call('c1', 5, 1, 3), call('d1', -1, 1, 7)]) queue.add(one);
    expect(ahead(queue, call('a2', 0, 1, 2))).toEqual([
      ['a', 1],
      ['c', 3],
    ]);
    expect(ahead(queue, call('a2', 0, 1, 12))).toEqual([
      ['a', 1],
      ['b', 9],
      ['c', 3],
    ]);
  });

  test('takes a higher priority first', () => {
    expect(drain([call('a1', 0), call('b1', 5), call('a2', 5), call('c1', -1)])).toEqual(['b1', 'a2', 'a1', 'c1']);
  });

  test('leaves half of its places and bytes to other tenants', () => {
    const queue = new CallQueue<ReturnType<typeof call>>();
    for (let index = 0; index < QUEUE_CALLS_MAX / 2; index++) expect(queue.add(call(`a${index}`))).toBe(true);
    expect(queue.add(call('a'))).toBe(false);
    expect(queue.add(call('b', 0, QUEUE_BYTES_MAX / 2))).toBe(true);
    expect(queue.add(call('b'))).toBe(false);
    expect(queue.add(call('c', 0, QUEUE_BYTES_MAX))).toBe(false);
    expect(queue.add(call('c'))).toBe(true);
  });

  test('takes a call of any size while it is empty', () => {
    expect(new CallQueue<ReturnType<typeof call>>().add(call('a', 0, 2 * QUEUE_BYTES_MAX))).toBe(true);
  });

  test('forgets a removed call and gives its place back', () => {
    const queue = new CallQueue<ReturnType<typeof call>>();
    const [first, second] = [call('a1'), call('a2')];
    queue.add(first);
    queue.add(second);
    expect([queue.remove(first), queue.remove(first), queue.size]).toEqual([true, false, 1]);
    expect(queue.take()).toBe(second);
  });

  test('passes over a tenant whose next call does not fit, and keeps its turn', () => {
    const queue = new CallQueue<ReturnType<typeof call>>();
    for (const name of ['a1', 'b1', 'a2', 'b2']) queue.add(call(name));
    const taken = queue.takeWhile(({ tenantKey }) => (tenantKey === 'a' ? 'skip' : 'take'));
    expect(taken.map(({ name }) => name)).toEqual(['b1', 'b2']);
    expect(queue.take()?.name).toBe('a1');
  });

  test('walks over the calls of one tenant alone where it is asked to, in every priority', () => {
    const queue = new CallQueue<ReturnType<typeof call>>();
    for (const one of [call('a1'), call('b1', 5), call('b2'), call('a2', 5), call('a3')]) queue.add(one);
    expect(queue.takeWhile(() => 'take', 'a').map(({ name }) => name)).toEqual(['a2', 'a1', 'a3']);
    expect(queue.size).toBe(2);
  });

  test('lets a tenant whose run cost more than its rows wait until the others had as much, also one whose calls are all taken', () => {
    const queue = busy(['a', 'b']);
    expect(queue.take()?.tenantKey).toBe('a');
    queue.charge([call('a')], 6);
    const served = Array.from({ length: 9 }, () => queue.take()?.tenantKey);
    expect(served.join('')).toBe('bbbbbbbab');

    queue.add(call('q1'));
    expect(queue.take()?.name).toBe('q1');
    queue.charge([call('q')], 20);
    queue.add(call('q2'));
    const after = Array.from({ length: 40 }, () => queue.take()?.tenantKey);
    // It had saved eight rows, of which its call was one.
    expect(after.indexOf('q')).toBe(2 * (20 - 7));
  });

  test('shares what a run cost among its tenants by their rows, and gives back what it did not', () => {
    const queue = busy(['a', 'b']);
    queue.charge([call('a', 0, 1, 1), call('b', 0, 1, 3)], 8);
    expect(Array.from({ length: 6 }, () => queue.take()?.tenantKey).join('')).toBe('aaaaba');
    queue.charge([call('b')], -3);
    expect(Array.from({ length: 4 }, () => queue.take()?.tenantKey).join('')).toBe('bbba');
  });

  test('knows how many of the calls of a tenant cannot run with the one before, whatever is taken and cancelled', () => {
    const queue = new CallQueue<ReturnType<typeof call>>();
    const breaks = () => queue.ahead(call('b', -1), ({ rows }) => rows)[0]?.lane.breaks;
    const calls = ['x', 'x', 'y', null, null, 'y', 'x', 'x'].map((key, index) => call(`a${index}`, 0, 1, 1, key));
    for (const one of calls) queue.add(one);
    const [, , y, none, , , x] = calls;
    expect(breaks()).toBe(5);
    for (const [gone, left] of [
      [none, 4],
      [y, 3],
      [x, 3],
    ] as const) {
      if (gone !== undefined) queue.remove(gone);
      expect(breaks()).toBe(left);
    }
    queue.take();
    queue.take();
    expect(breaks()).toBe(2);
  });
});
