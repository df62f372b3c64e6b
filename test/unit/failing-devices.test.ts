import { beforeEach, describe, expect, it } from 'vitest';
import { FailingDevices } from '../../src/inference/failing-devices.ts';

const MINUTE_MS = 60_000;
let nowMs = 0;
let failing: FailingDevices;
beforeEach(() => {
  nowMs = 0;
  failing = new FailingDevices(() => nowMs);
});
const has = () => failing.has('version', 'cuda:0');

describe('a device fails a version', () => {
  it('where a run crashed there', () => {
    failing.add('version', 'cuda:0', null);
    expect([has(), failing.has('version', 'cuda:1'), failing.has('other', 'cuda:0')]).toEqual([true, false, false]);
  });

  it('where runs of two tenants failed there, and not those of one however many', () => {
    for (let i = 0; i < 9; i++) failing.add('version', 'cuda:0', 'one');
    failing.add('version', 'cuda:1', 'another');
    expect(has()).toBe(false);
    failing.add('version', 'cuda:0', 'another');
    expect(has()).toBe(true);
  });

  it('for ten minutes, or until it is forgotten', () => {
    failing.add('version', 'cuda:0', null);
    nowMs = 10 * MINUTE_MS - 1;
    expect(has()).toBe(true);
    nowMs += 1;
    expect(has()).toBe(false);
    failing.add('version', 'cuda:0', 'one');
    expect(has()).toBe(false);
    expect(failing.of('version')).toEqual([]);
    failing.add('version', 'cuda:0', null);
    nowMs += 1;
    expect(failing.of('version')).toEqual([{ device: 'cuda:0', forMs: 599_999 }]);
    failing.forget('version');
    expect(has()).toBe(false);
    expect(failing.of('version')).toEqual([]);
  });
});
