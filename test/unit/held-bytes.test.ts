import { expect, test } from 'vitest';
import { HeldBytes } from '../../src/base/held-bytes.ts';

test('one holder has half of the room, all together have all of it, and what is released is free', () => {
  const overloaded = expect.objectContaining({ code: 'OVERLOADED', message: 'full', data: { rule: 'FULL', retryAfterMs: 1_000 } });
  const room = new HeldBytes(100, { rule: 'FULL', message: 'full' });
  const one = room.hold('one');
  const other = room.hold('other');
  const third = room.hold('third');
  one.grow(50);
  expect(() => one.grow(1)).toThrow(overloaded);
  other.grow(40);
  third.grow(10);
  expect(() => third.grow(1)).toThrow(overloaded);
  expect(() => other.moveTo('one')).toThrow(overloaded);
  other.moveTo('third');
  for (const hold of [one, one, other]) hold.release();
  one.grow(100);
  one.moveTo('third');
  room.hold('other').grow(50);
  expect(() => room.hold('other').grow(1)).toThrow(overloaded);
  room.hold('third').grow(40);
});
