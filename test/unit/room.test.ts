import { availableParallelism } from 'node:os';
import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { type Footprint, MemoryBudget } from '../../src/inference/budget.ts';
import { hostMs, NO_STATS } from '../../src/inference/frames.ts';
import { type Holder, held, hogOf, type Replica, Room } from '../../src/inference/room.ts';
import type { Runner } from '../../src/inference/runner-process.ts';

const on = (device: string, bytes: number, deviceBytes = 0): Footprint => ({ device, bytes, deviceBytes });
const EVICTS = () => true;
const EVICTS_NOT = () => false;

/** A host of 1000 bytes, and devices of 100 each, whose runners end when they are told to, unless they hang. */
let present: Replica[];
let retired: Replica[];
let hanging: Replica[];
/** The minimum of its version. */
let kept: Replica[];
let promised: symbol[];
let lent: Holder[];
let looks: number;
let room: Room;
let budget: MemoryBudget;
beforeEach(() => {
  [present, retired, hanging, promised, lent, kept] = [[], [], [], [], [], []];
  looks = 0;
  budget = new MemoryBudget({ memoryBytesMax: 1000, deviceMemoryBytesMax: 100 }, () => present.map(held));
  room = new Room(budget, 16, {
    replicas: () => present,
    loans: () => {
      looks++;
      return lent;
    },
    ask: async () => {},
    mayEnd: () => present.filter((replica) => !retired.includes(replica) && !kept.includes(replica)),
    retire: async (replica) => {
      if (!retired.includes(replica)) retired.push(replica);
      await new Promise<void>((resolve) => (hanging.includes(replica) ? undefined : setImmediate(resolve)));
      present = present.filter((other) => other !== replica);
    },
  });
});

function add(footprint: Footprint, isIdle: boolean, owner = 'one'): Replica {
  const stats = { ...NO_STATS, running: isIdle ? 0 : 1, idleSinceMs: isIdle ? hostMs() : null };
  const replica = { runner: {} as Runner, footprint, owner, stats, deviceBytes: null, deviceBytesMax: 2 ** 40, partlyOnCpu: false };
  present.push(replica);
  return replica;
}

/** As if that had been called a while ago. */
function aged(replica: Replica): Replica {
  replica.stats = { ...replica.stats, idleSinceMs: hostMs() - 60_000 };
  return replica;
}

const take = (footprints: Footprint[], mayEvict = EVICTS, owner: string | null = 'one') => {
  const place = Symbol();
  promised.push(place);
  return room.forReplica(place, owner, footprints, mayEvict);
};

describe('room for a load', () => {
  it('is on the first device of a kind that has some, and on the next kind where none has', async () => {
    const choices = ['cuda:0', 'cuda:1', 'cpu'].map((device) => on(device, 10, device === 'cpu' ? 0 : 60));
    for (const device of ['cuda:0', 'cuda:1', 'cpu', 'cpu']) expect(await take(choices)).toMatchObject({ device });
  });

  it('is made on the wanted device before the next is taken', async () => {
    const old = add(on('cuda:0', 10, 60), true);
    expect(await take([on('cuda:0', 10, 60), on('cpu', 10)])).toMatchObject({ device: 'cuda:0' });
    expect(retired).toEqual([old]);
  });

  it('is made by those that were called the longest ago, of the device where the host has room', async () => {
    add(on('cpu', 10), true);
    const [first, second] = [add(on('cuda:0', 10, 40), true), add(on('cuda:0', 10, 40), true)];
    await take([on('cuda:0', 10, 60)]);
    expect(retired).toEqual([first]);
    await take([on('cuda:0', 10, 40)]);
    expect(retired).toEqual([first, second]);
  });

  it('ends nobody where that would not be enough', async () => {
    add(on('cpu', 100), false);
    for (let i = 0; i < 5; i++) add(on('cpu', 100), true);
    await expect(take([on('cpu', 950)])).rejects.toMatchObject({
      code: 'OVERLOADED',
      data: { rule: 'NO_PLACE', retryAfterMs: expect.any(Number) },
    });
    expect(retired).toEqual([]);
  });

  it('is refused at once to what may end nobody', async () => {
    add(on('cpu', 900), true);
    await expect(take([on('cpu', 200)], EVICTS_NOT)).rejects.toMatchObject({ code: 'OVERLOADED' });
    expect(retired).toEqual([]);
  });

  it('that is not there holds up nobody else', async () => {
    add(on('cuda:0', 10, 100), false);
    const settled: string[] = [];
    const hopeless = Array.from({ length: 5 }, () => take([on('cuda:0', 10, 10)]).catch(() => settled.push('refused')));
    await take([on('cpu', 10)]).then(() => settled.push('loaded'));
    await Promise.all(hopeless);
    expect(settled[0]).toBe('loaded');
  });

  it('is for whom it was made alone: two that want it at once end no more than they need', async () => {
    const [first, second] = [add(on('cpu', 400), true), add(on('cpu', 400), true), add(on('cpu', 200), true)];
    await Promise.all([take([on('cpu', 400)]), take([on('cpu', 400)])]);
    expect(retired).toEqual([first, second]);
    expect(budget.memoryOf('cpu').memoryBytes).toBe(1000);
  });

  it('is not what a replica gave back between its runs', async () => {
    for (let i = 0; i < 2; i++) {
      const replica = add(on('cpu', 400), false);
      replica.stats = { ...NO_STATS, memoryBytes: 50 };
    }
    await expect(take([on('cpu', 400)], EVICTS_NOT)).rejects.toMatchObject({ code: 'OVERLOADED' });
    expect(await take([on('cpu', 200)], EVICTS_NOT)).toMatchObject({ bytes: 200 });
  });

  it('of a check is not waited for where somebody does not end', async () => {
    const stuck = aged(add(on('cpu', 500), true));
    hanging.push(stuck);
    const other = aged(add(on('cpu', 500), true));
    await room.forLoan(Symbol(), on('cpu', 500));
    expect(retired).toEqual([stuck, other]);
  });
});

describe('room between owners', () => {
  const loaded = async (owner: string | null, footprint = on('cpu', 1)) => {
    const place = Symbol();
    await room.forReplica(place, owner, [footprint], EVICTS);
    budget.release(place);
    return add(footprint, false, owner ?? 'operator');
  };
  const fill = (count: number, owner: string, footprint = on('cpu', 1)) =>
    Array.from({ length: count }, () => add(footprint, false, owner));
  const refused = { code: 'OVERLOADED' };

  it('of places is taken from who has more of them, busy or not, until who asks has as many', { timeout: 30_000 }, async () => {
    fill(10, 'hog');
    fill(6, 'other');
    for (let asked = 0; asked < 2; asked++) await loaded('other');
    await expect(loaded('other')).rejects.toMatchObject(refused);
    await expect(loaded('hog')).rejects.toMatchObject(refused);
    expect(retired.map(({ owner }) => owner)).toEqual(['hog', 'hog']);
    await loaded('third');
    await loaded(null);
    expect(retired).toHaveLength(4);
  });

  it('of memory is taken from who has more of it, of the host and of a device', { timeout: 30_000 }, async () => {
    fill(1, 'hog', on('cpu', 900));
    await loaded('other', on('cpu', 300));
    await expect(loaded('hog', on('cpu', 900))).rejects.toMatchObject(refused);
    fill(1, 'hog', on('cuda:0', 10, 90));
    await loaded('other', on('cuda:0', 10, 30));
    await expect(loaded('hog', on('cuda:0', 10, 90))).rejects.toMatchObject(refused);
    expect(retired.map(({ footprint }) => footprint)).toEqual([on('cpu', 900), on('cuda:0', 10, 90)]);
  });

  it('is not taken from what stays, nor by an owner from itself while it is busy', { timeout: 30_000 }, async () => {
    fill(9, 'hog');
    fill(6, 'other');
    kept.push(add(on('cpu', 1), false, 'hog'));
    await expect(loaded('hog')).rejects.toMatchObject(refused);
    await loaded('other');
    await expect(loaded('other')).rejects.toMatchObject(refused);
    expect(retired).not.toContain(kept[0]);
  });

  it('is not taken by who has more from one that was called a moment ago', { timeout: 30_000 }, async () => {
    fill(14, 'hog');
    const used = add(on('cpu', 1), true, 'other');
    const unused = aged(add(on('cpu', 1), true, 'other'));
    await loaded('hog');
    expect(retired).toEqual([unused]);
    await expect(loaded('hog')).rejects.toMatchObject(refused);
    await loaded('third');
    expect(retired).toEqual([unused, used]);
  });

  it('is not all promised to loads of one owner, which cannot be ended', { timeout: 30_000 }, async () => {
    for (let asked = 0; asked < 8; asked++) await take([on('cpu', 1)]);
    await expect(take([on('cpu', 1)], EVICTS_NOT)).rejects.toMatchObject(refused);
    const place = Symbol();
    await room.forReplica(place, 'other', [on('cpu', 1)], EVICTS);
    const waits = take([on('cpu', 1)]).then(() => 'loaded');
    for (let asked = 0; asked < 6; asked++) await take([on('cpu', 1)], EVICTS, null);
    expect(await Promise.race([waits, take([on('cpu', 1)], EVICTS, null).then(() => 'kept')])).toBe('kept');
    budget.release(place);
    for (const one of promised.splice(0, 1)) budget.release(one);
    expect(await waits).toBe('loaded');
  });
});

describe('room for checks', () => {
  const LOANS_MAX = Math.max(2, availableParallelism());
  /** Whether there was room at once: 30 s would pass. */
  const lend = (footprint: Footprint, place = Symbol()) =>
    Promise.race([room.forLoan(place, footprint).then(() => true), new Promise((resolve) => setImmediate(resolve, false))]);
  /** Each that waits has looked again. */
  const looked = () => {
    const before = looks;
    return vi.waitFor(() => expect(looks).toBeGreaterThan(before + 8), 20_000);
  };
  const hold = (footprint: Footprint) => ({ ...add(footprint, false), stats: NO_STATS });

  it('is half of the memory of the host, or what one alone takes', async () => {
    const [alone, second] = [Symbol(), Symbol()];
    expect(await lend(on('cpu', 800), alone)).toBe(true);
    const waits = room.forLoan(second, on('cpu', 1));
    await looked();
    expect(budget.promisedLoans).toHaveLength(1);
    budget.release(alone);
    await waits;
    budget.release(second);
    lent = [hold(on('cpu', 300))];
    const third = room.forLoan(Symbol(), on('cpu', 201));
    await looked();
    expect(budget.promisedLoans).toEqual([]);
    lent = [hold(on('cpu', 299))];
    await third;
  });

  it('is for as many as there are cores', async () => {
    lent = Array.from({ length: LOANS_MAX - 1 }, () => hold(on('cpu', 1)));
    expect(await lend(on('cpu', 1))).toBe(true);
    const waits = room.forLoan(Symbol(), on('cpu', 1));
    await looked();
    expect(budget.promisedLoans).toHaveLength(1);
    expect(await take([on('cpu', 1)])).toMatchObject({ device: 'cpu' });
    lent = [];
    await waits;
  });

  it('is waited for in turn, longer than for memory, while there are as many as may be', async () => {
    let laterMs = 0;
    const { now } = performance;
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now.call(performance) + laterMs);
    onTestFinished(() => void clock.mockRestore());
    lent = Array.from({ length: LOANS_MAX }, () => hold(on('cpu', 1)));
    const order: string[] = [];
    const waits = ['first', 'second'].map((name) => room.forLoan(Symbol(), on('cpu', 1)).then(() => order.push(name)));
    await looked();
    laterMs = 60_000;
    await looked();
    lent = lent.slice(1);
    // Of a check that gave one back, and wants another.
    const again = room.forLoan(Symbol(), on('cpu', 1)).then(() => order.push('again'));
    await waits[0];
    expect(order).toEqual(['first']);
    await looked();
    laterMs = 200_000;
    const refusals = await Promise.allSettled([...waits.slice(1), again]);
    expect(refusals).toMatchObject([1, 2].map(() => ({ status: 'rejected', reason: { code: 'OVERLOADED' } })));
  });

  it('is made by what nobody called of late, and by nothing else', async () => {
    const add100 = () => add(on('cpu', 100), true);
    for (let count = 0; count < 7; count++) add100();
    const unused = [aged(add100()), aged(add100())];
    await room.forLoan(Symbol(), on('cpu', 300));
    expect(retired).toEqual(unused);
    const waits = room.forLoan(Symbol(), on('cpu', 100));
    await looked();
    expect(retired).toEqual(unused);
    const [next] = present;
    if (next !== undefined) aged(next);
    await waits;
    expect(retired).toEqual([...unused, next]);
  });
});

describe('a device that is full', () => {
  const replica = (deviceBytes: number | null, deviceBytesMax: number, changes: Partial<Replica> = {}): Replica => ({
    ...add(on('cuda:0', 10, 20), false),
    runner: { connection: { usable: true } } as Runner,
    ...{ deviceBytes, deviceBytesMax, ...changes },
  });
  const full = { device: 'cuda:0', memoryBytes: 101, memoryBytesMax: 100 };

  it('loses who holds the most beyond what it may, and nobody else', () => {
    const [large, hog, more] = [replica(70, 70), replica(30, 20), replica(50, 45)];
    expect(hogOf([large, more, hog], full)).toBe(hog);
    expect(hogOf([large], full)).toBeUndefined();
  });

  it('loses, where the memory of the host is full, who holds the most beyond what it was seen to need, whatever it runs on', () => {
    const holding = (memoryBytes: number, footprint: Footprint): Replica => ({
      ...replica(null, 0),
      footprint,
      stats: { ...NO_STATS, memoryBytes },
    });
    const [large, more, hog] = [holding(700, on('cpu', 700)), holding(250, on('cpu', 100)), holding(300, on('cuda:0', 100, 90))];
    const host = { device: 'cpu', memoryBytes: 1_250, memoryBytesMax: 1_000 };
    expect(hogOf([large, more, hog], host)).toBe(hog);
    expect(hogOf([large], host)).toBeUndefined();
    expect(hogOf([large, more, hog], { ...host, memoryBytes: 1_000 })).toBeUndefined();
  });

  it('loses nobody where there is room, where one is ending, and where nobody tells what is held', () => {
    const hog = replica(30, 20);
    expect(hogOf([hog], { ...full, memoryBytes: 100 })).toBeUndefined();
    expect(hogOf([hog, replica(1, 20, { runner: { connection: { usable: false } } as Runner })], full)).toBeUndefined();
    expect(hogOf([replica(null, 20)], full)).toBeUndefined();
    expect(hogOf([hog], { ...full, device: 'cuda:1' })).toBeUndefined();
  });

  it('counts of a replica what it holds, and no less than it may need', () => {
    expect([replica(null, 90), replica(10, 90), replica(30, 90)].map((one) => held(one).deviceBytes)).toEqual([20, 20, 30]);
  });
});
