import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Call, Refusal } from '../../src/inference/dispatcher.ts';
import { QUEUE_CALLS_MAX } from '../../src/inference/queue.ts';
import { floats } from './setup.ts';
import { SETTINGS, stage } from './stage.ts';

describe('the dispatcher of a runner', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }));
  afterEach(() => void vi.useRealTimers());

  test('starts a call at once when idle and joins what came while it was busy, each caller getting its rows', () => {
    const { dispatcher, runs, log, add, echo } = stage();
    add('a1', [1]);
    dispatcher.dispatch();
    add('a2', [2, 3]);
    add('a3', [4]);
    dispatcher.dispatch();
    expect(runs.map(({ rows }) => rows)).toEqual([[1]]);
    echo();
    expect(runs.at(-1)?.rows).toEqual([2, 3, 4]);
    echo();
    expect(log).toEqual(['a1 begins', 'a2 begins', 'a3 begins', 'a1: 1 of 1', 'a2: 2,3 of 3', 'a3: 4 of 3']);
  });

  test('refuses a call at once that would still wait at its deadline, and lets in one that is in time', () => {
    const { dispatcher, log, add, echo } = stage({ joinable: false });
    add('a0', [0]);
    dispatcher.dispatch();
    const runMs = 100;
    for (let i = 0; i < 40; i++) {
      add(`a${i + 1}`, [i]);
      echo(runMs);
    }
    log.length = 0;
    for (let i = 0; i < 5; i++) add(`b${i}`, [i]);
    const expiresIn = (ms: number) => ({ expiresMs: performance.now() + ms });
    add('b-late', [1], expiresIn(300));
    // Its run would begin in time, after the current one and one of b's, and end too late.
    add('c-edge', [1], expiresIn(300));
    add('c-soon', [1], expiresIn(450));
    add('b-patient', [1], expiresIn(10_000));
    const late = 'OVERLOADED The calls that wait for this model take longer than the deadline.';
    expect(log).toEqual([`b-late: ${late}`, `c-edge: ${late}`]);
    // Others like it need not be sent for a while, in which the queue does not run empty.
    const refused: Refusal[] = [];
    add('b-later', [1], { ...expiresIn(300), refuse: (refusal) => refused.push(refusal) });
    expect(refused).toMatchObject([{ code: 'OVERLOADED', rule: 'DEADLINE', forMs: 10 }]);
  });

  test('refuses what the queue has no room for, by a rule of its own', () => {
    const { add } = stage();
    const refused: Refusal[] = [];
    for (let call = 0; call <= QUEUE_CALLS_MAX / 2; call++) add(`a${call}`, [call], { refuse: (refusal) => refused.push(refusal) });
    expect(refused).toMatchObject([{ code: 'OVERLOADED', rule: 'QUEUE_FULL' }]);
  });

  test('keeps within the batch limit', () => {
    const { dispatcher, runs, add, echo } = stage();
    add('a1', [1, 2, 3]);
    add('a2', [4, 5]);
    add('a3', [6]);
    dispatcher.dispatch();
    echo();
    expect(runs.map(({ rows }) => rows)).toEqual([
      [1, 2, 3],
      [4, 5, 6],
    ]);
  });

  test('keeps the rows of tenants apart unless the version is shared', () => {
    for (const shared of [false, true]) {
      const { dispatcher, runs, add } = stage({ shared });
      add('a1', [1]);
      add('b1', [2]);
      add('a2', [3]);
      dispatcher.dispatch();
      expect(runs[0]?.rows).toEqual(shared ? [1, 2, 3] : [1, 3]);
    }
  });

  test('joins nothing unless the version is joinable', () => {
    const { dispatcher, runs, add } = stage({ joinable: false });
    add('a1', [1]);
    add('a2', [2]);
    dispatcher.dispatch();
    expect(runs[0]?.rows).toEqual([1]);
  });

  test('joins only equal names, datatypes, trailing shapes and outputs', () => {
    const others: Partial<Call>[] = [
      { inputs: [floats([1, 1], [9], 'z')] },
      { inputs: [{ ...floats([1, 1], [9]), datatype: 'INT32' }] },
      { inputs: [floats([1, 2], [9, 9])] },
      { outputs: ['y'] },
    ];
    for (const other of others) {
      const { dispatcher, runs, add } = stage();
      add('a1', [1]);
      add('a2', [9], other);
      dispatcher.dispatch();
      expect(runs[0]?.rows).toEqual([1]);
    }
  });

  test('repeats a failed joined run call by call, so that only the bad input fails', () => {
    const { dispatcher, runs, log, add, echo } = stage();
    add('a1', [1]);
    add('a2', [2]);
    dispatcher.dispatch();
    dispatcher.failed(1, 'bad row');
    expect(runs.at(-1)?.rows).toEqual([1]);
    echo();
    expect(runs.at(-1)?.rows).toEqual([2]);
    dispatcher.failed(3, 'bad row');
    expect(log.slice(2)).toEqual(['a1 begins', 'a2 begins', 'a1: 1 of 1', 'a2: MODEL_FAILED bad row']);
  });

  test('lets a tenant whose input failed the run of others run by itself for a while', () => {
    const { dispatcher, runs, add, echo } = stage({ shared: true });
    add('a1', [1]);
    add('b1', [2]);
    dispatcher.dispatch();
    add('a2', [3]);
    add('b2', [4]);
    add('b3', [5]);
    add('c2', [6]);
    vi.advanceTimersByTime(1);
    dispatcher.failed(1, 'bad row');
    echo();
    vi.advanceTimersByTime(1);
    dispatcher.failed(3, 'bad row');
    for (let run = 0; run < 3; run++) echo();
    expect(runs.map(({ rows }) => rows)).toEqual([[1, 2], [1], [2], [6, 3], [4], [5]]);
    vi.advanceTimersByTime(10_000);
    add('a3', [7]);
    add('b4', [8]);
    dispatcher.dispatch();
    expect(runs.at(-1)?.rows).toEqual([7, 8]);
  });

  test('sets nobody apart whose call fails alone, or in a run of several that is done again', () => {
    const { dispatcher, runs, add, echo } = stage({ shared: true });
    add('a1', [1]);
    dispatcher.dispatch();
    dispatcher.failed(1, 'bad row');
    add('b1', [2]);
    add('a2', [3]);
    dispatcher.dispatch();
    dispatcher.failed(2, 'out of memory');
    echo();
    echo();
    add('b2', [4]);
    add('a3', [5]);
    dispatcher.dispatch();
    expect(runs.map(({ rows }) => rows)).toEqual([[1], [2, 3], [2], [3], [4, 5]]);
  });

  test('counts what is done again before a call when it says whether that would be in time', () => {
    const { dispatcher, log, add, echo } = stage();
    add('a0', [0]);
    dispatcher.dispatch();
    for (let i = 1; i < 40; i++) {
      add(`a${i}`, [i]);
      echo(100);
    }
    for (let i = 40; i < 44; i++) add(`a${i}`, [i]);
    echo(100);
    dispatcher.failed(41, 'bad row');
    add('b1', [1], { expiresMs: performance.now() + 400 });
    expect(log.at(-1)).toMatch(/b1: OVERLOADED/);
  });

  test('repeats a joined run whose outputs do not have the rows of its inputs', () => {
    const { dispatcher, runs, log, add, echo } = stage();
    add('a1', [1]);
    add('a2', [2]);
    dispatcher.dispatch();
    dispatcher.ran(1, [floats([1, 1], [7])], 1);
    echo();
    echo();
    expect(runs.map(({ rows }) => rows)).toEqual([[1, 2], [1], [2]]);
    expect(log.slice(-2)).toEqual(['a1: 1 of 1', 'a2: 2 of 1']);
  });

  test('fills runs that calls may share up to the fixed rows, with copies of the first that nobody gets', () => {
    const { dispatcher, runs, log, add, echo } = stage({ fixedRows: 4 });
    add('a1', [1, 2]);
    dispatcher.dispatch();
    add('a2', [3]);
    add('a3', [4, 5, 6]);
    echo();
    echo();
    expect(runs.map(({ rows }) => rows)).toEqual([
      [1, 2, 1, 1],
      [3, 4, 5, 6],
    ]);
    expect(log.filter((line) => line.includes(': '))).toEqual(['a1: 1,2 of 2', 'a2: 3 of 4', 'a3: 4,5,6 of 4']);
  });

  test('counts the run time of rows that no call brought for nobody', () => {
    const { dispatcher, add, echo } = stage({ fixedRows: 4 });
    const micros: number[] = [];
    add('a1', [1, 2], { answer: (_, { computeMicros }) => void micros.push(computeMicros) });
    dispatcher.dispatch();
    echo(4);
    expect(micros).toEqual([2_000]);
  });

  test('fills up no run that calls may not share, and no call of more rows', () => {
    const { dispatcher, runs, add, echo } = stage({ fixedRows: 4 });
    add('a1', [1], { joinKey: null });
    dispatcher.dispatch();
    add('a2', [1, 2, 3, 4, 5]);
    echo();
    expect(runs.map(({ rows }) => rows)).toEqual([[1], [1, 2, 3, 4, 5]]);
  });

  test('repeats a filled run as it is where it has not the rows of its inputs, and filled where another may be at fault', () => {
    const { dispatcher, runs, log, add, echo } = stage({ fixedRows: 4 });
    add('a1', [1]);
    dispatcher.dispatch();
    dispatcher.ran(1, [floats([1, 1], [7])], 1);
    echo();
    add('b1', [2]);
    dispatcher.dispatch();
    add('c1', [3]);
    add('c2', [4]);
    dispatcher.failed(3, 'it is the model');
    dispatcher.failed(4, 'one of them');
    echo();
    dispatcher.failed(6, 'this one');
    expect(runs.map(({ rows }) => rows)).toEqual([[1, 1, 1, 1], [1], [2, 2, 2, 2], [3, 4, 3, 3], [3, 3, 3, 3], [4, 4, 4, 4]]);
    expect(log.filter((line) => line.includes(': '))).toEqual([
      'a1: 1 of 1',
      'b1: MODEL_FAILED it is the model',
      'c1: 3 of 1',
      'c2: MODEL_FAILED this one',
    ]);
  });

  test('drops the cancelled and refuses the late without running them', () => {
    const { dispatcher, runs, log, add, cancel, echo } = stage();
    add('a1', [1]);
    dispatcher.dispatch();
    add('a2', [2]);
    add('a3', [3], { expiresMs: performance.now() });
    add('a4', [4]);
    cancel('a2');
    cancel('a1');
    echo();
    expect(runs.map(({ rows }) => rows)).toEqual([[1], [4]]);
    expect(log).toContain('a1: 1 of 1');
    expect(log).toContain('a3: DEADLINE_EXCEEDED The deadline passed while the call waited.');
  });

  test('ends the process when a run passes its limit, after telling the calls in it and no others', () => {
    const { dispatcher, runs, log, add } = stage();
    add('a1', [1]);
    dispatcher.dispatch();
    add('a2', [2]);
    vi.advanceTimersByTime(SETTINGS.runLimitMs);
    dispatcher.ran(1, [floats([1, 1], [1])], 1);
    dispatcher.dispatch();
    expect(runs).toHaveLength(1);
    expect(log).toEqual(['a1 begins', 'a1: MODEL_FAILED The model exceeded its run limit of 1000 ms. fatal', 'died']);
  });

  test('looks at each tenant that waits once or twice before a run where rows are not shared', () => {
    const { dispatcher, add, echo, rowReads } = stage({ maxBatchRows: 64 });
    const tenants = 500;
    for (let tenant = 0; tenant < tenants; tenant++) add(`t${tenant}`, [tenant], { tenantKey: `t${tenant}` });
    dispatcher.dispatch();
    const before = rowReads();
    echo();
    expect(rowReads() - before).toBeLessThan(3 * tenants);
  });

  test('looks at few more than that where none of those that wait may share the run', () => {
    const { dispatcher, add, echo, rowReads } = stage({ shared: true, maxBatchRows: 64 });
    const tenants = 512;
    for (let tenant = 0; tenant < tenants; tenant++) add(`t${tenant}`, [tenant], { tenantKey: `t${tenant}`, outputs: [`y${tenant}`] });
    dispatcher.dispatch();
    const before = rowReads();
    echo();
    expect(rowReads() - before).toBeLessThan(4 * tenants * Math.log2(tenants));
  });
});
