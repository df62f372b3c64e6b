import { describe, expect, test } from 'vitest';
import { CallQueue, QUEUE_BYTES_MAX, QUEUE_CALLS_MAX } from '../../src/inference/queue.ts';

const call = (name: string, priority = 0, bytes = 1, rows = 1) => ({ name, tenantKey: name.slice(0, 1), priority, bytes, rows });

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
    expect(drain([...large, ...small])).toEqual(['a1', 'b0', 'b1', 'b2', 'b3', 'b4', 'b5', 'b6', 'a2', 'b7']);
  });

  test('owes the others what a tenant takes beyond its turn to fill a run', () => {
    const queue = new CallQueue<ReturnType<typeof call>>();
    for (const name of ['a1', 'b1', 'a2', 'b2', 'a3', 'b3', 'a4', 'b4', 'a5', 'a6']) queue.add(call(name));
    let room = 3;
    const taken = queue.takeWhile(({ tenantKey }) => (tenantKey === 'b' ? 'skip' : room-- > 0 ? 'take' : 'stop'));
    expect(taken.map(({ name }) => name)).toEqual(['a1', 'a2', 'a3']);
    const rest = Array.from({ length: 7 }, () => queue.take()?.name);
    expect(rest).toEqual(['b1', 'a4', 'b2', 'b3', 'b4', 'a5', 'a6']);
  });

  test('lets the first call of a tenant that asks rarely run before those that always ask', () => {
    const queue = new CallQueue<ReturnType<typeof call>>();
    for (const name of ['a1', 'b1', 'a2', 'b2', 'a3', 'b3']) queue.add(call(name));
    const order = [queue.take(), queue.take(), queue.take()];
    for (const one of [call('q1'), call('q2')]) queue.add(one);
    expect(queue.ahead(call('r1'))).toEqual([
      { rows: 0, calls: 0 },
      { rows: 1, calls: 1 },
    ]);
    for (let next = queue.take(); next !== null; next = queue.take()) order.push(next);
    expect(order.map((one) => one?.name)).toEqual(['a1', 'b1', 'a2', 'q1', 'b2', 'a3', 'b3', 'q2']);
  });

  test('gives a tenant that asks again whenever it is answered no more than its turns', () => {
    const queue = new CallQueue<ReturnType<typeof call>>();
    for (let index = 0; index < 12; index++) for (const tenant of ['a', 'b', 'c']) queue.add(call(`${tenant}${index}`));
    const served: string[] = [];
    for (let turn = 0; turn < 24; turn++) {
      const next = queue.take();
      // Its next call comes while the run after its own is under way.
      if (turn === 2 || served.at(-1) === 'q') queue.add(call('q'));
      served.push(next?.tenantKey ?? '');
    }
    expect(served.filter((tenant) => tenant === 'q').length).toBeLessThanOrEqual(24 / 4 + 1);
    expect(served.filter((tenant) => tenant === 'a').length).toBeGreaterThanOrEqual(24 / 4 - 1);
  });

  test('keeps what a large call took too early until the others had as much', () => {
    const queue = new CallQueue<ReturnType<typeof call>>();
    for (let index = 0; index < 40; index++) queue.add(call(`a${index}`));
    queue.take();
    queue.add(call('b', 0, 1, 9));
    expect(queue.take()?.tenantKey).toBe('b');
    queue.add(call('b'));
    const served = Array.from({ length: 14 }, () => queue.take()?.tenantKey);
    expect(served.indexOf('b')).toBeGreaterThanOrEqual(8);
  });

  test('knows what runs before a new call: its own, higher priorities, and of others no more than its own', () => {
    const queue = new CallQueue<ReturnType<typeof call>>();
    for (const one of [call('a1'), call('b1', 0, 1, 9), call('c1', 5, 1, 3), call('d1', -1, 1, 7)]) queue.add(one);
    expect(queue.ahead(call('a2', 0, 1, 2))).toEqual([
      { rows: 1, calls: 1 },
      { rows: 3, calls: 1 },
      { rows: 3, calls: 1 },
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
});
