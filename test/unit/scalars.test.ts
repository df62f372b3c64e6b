import { parseValue } from 'graphql';
import { describe, expect, it } from 'vitest';
import { scalars } from '../../src/graphql/scalars.ts';

const { DateTime } = scalars;

describe('DateTime', () => {
  it.each([
    ['2026-11-23T09:30:00.000Z', '2026-11-23T09:30:00.000Z'],
    ['2026-11-23t09:30:00z', '2026-11-23T09:30:00.000Z'],
    ['2026-11-23T09:30:00.123456+02:00', '2026-11-23T07:30:00.123Z'],
    ['2028-02-29T00:00:00Z', '2028-02-29T00:00:00.000Z'],
  ])('reads %s as %s, from variables and literals alike', (given, shown) => {
    expect(DateTime.serialize(DateTime.parseValue(given))).toBe(shown);
    expect(DateTime.serialize(DateTime.parseLiteral(parseValue(JSON.stringify(given))))).toBe(shown);
  });

  it.each([
    '2026-02-29T00:00:00Z',
    '2026-11-31T00:00:00Z',
    '2026-11-00T00:00:00Z',
    '2026-11-23',
    '2026-11-23T09:30:00',
    '2026-11-23 09:30:00Z',
    '2026-11-23T24:30:00Z',
    '1969-12-31T23:59:59Z',
    '9999-12-31T23:59:59-01:00',
    '+012026-01-01T00:00:00Z',
    '',
    0,
    null,
    {},
  ])('refuses %s', (given) => {
    expect(() => DateTime.parseValue(given)).toThrow('RFC 3339');
  });

  it('shows nothing but a Date', () => {
    expect(() => DateTime.serialize('2026-11-23T09:30:00.000Z')).toThrow(TypeError);
    expect(() => DateTime.serialize(new Date(Number.NaN))).toThrow(RangeError);
  });
});
