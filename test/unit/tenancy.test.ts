import { expect, test } from 'vitest';
import { checkLabel, checkTenantName } from '../../src/tenancy/tenancy.ts';

test.each(['ab', 'a1', '0-0', 'a-b-c', 'x'.repeat(39)])('%o is a handle', (name) => {
  expect(checkTenantName('name', name)).toBe(name);
});

test.each(['', 'a', 'A1', '-a', 'a-', 'a--b', 'a_b', 'a b', 'ab\n', 'é1', 'x'.repeat(40), `x${'-x'.repeat(20)}`])(
  '%o is no handle',
  (name) => {
    expect(() => checkTenantName('name', name)).toThrow(
      expect.objectContaining({ code: 'BAD_USER_INPUT', data: expect.objectContaining({ field: 'name', given: name }) }),
    );
  },
);

test.each([
  ['Å, & Søn', 'Å, & Søn'],
  ['  spaced  ', 'spaced'],
  [` ${'x'.repeat(100)} `, 'x'.repeat(100)],
])('%o is a name for people', (text, label) => {
  expect(checkLabel('displayName', text)).toBe(label);
});

test.each(['', ' \t ', 'x'.repeat(101), 'a\nb', 'a\u0000b', 'a\u202eb'])('%o is no name for people', (text) => {
  expect(() => checkLabel('displayName', text)).toThrow(
    expect.objectContaining({ code: 'BAD_USER_INPUT', data: expect.objectContaining({ field: 'displayName' }) }),
  );
});
