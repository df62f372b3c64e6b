import { expect, test } from 'vitest';
import { parseCount, parseHandle, parseModelName, parsePlans, parseSummary, parseTags } from '../../src/catalog/input.ts';
import { searchQuery, words } from '../../src/catalog/search.ts';

const wrong = (field: string) => expect.objectContaining({ code: 'BAD_USER_INPUT', data: expect.objectContaining({ field }) });
const plan = { name: 'basic', unitPriceNanos: '1' };

function thrown(fn: () => unknown): unknown {
  try {
    return fn();
  } catch (error) {
    return error;
  }
}

test.each(['a', 'mnist-digits', 'v1.2_x', '0', 'a'.repeat(63)])('a model may be called %s', (name) => {
  expect(parseModelName(name)).toBe(name);
});

test.each(['', '-a', 'a-', 'a--b', 'a/b', 'a@1', 'A', 'ä', 'a b', 'a\n', 'a'.repeat(64)])('a model may not be called %j', (name) => {
  expect(thrown(() => parseModelName(name))).toEqual(wrong('name'));
});

test('a call names tenant/name, a number or an alias of it, and nothing like it', () => {
  expect(parseHandle('acme/digits')).toEqual({ handle: 'acme/digits', number: null, alias: null });
  expect(parseHandle('acme/digits@12')).toEqual({ handle: 'acme/digits', number: 12, alias: null });
  expect(parseHandle('acme/digits@next-2')).toEqual({ handle: 'acme/digits', number: null, alias: 'next-2' });
  for (const text of [
    'acme',
    'acme/',
    '/digits',
    'a/digits',
    'acme/digits@',
    'acme/digits@0',
    'acme/digits@01',
    'acme/digits@1@2',
    'acme/a/b',
    'acme/digits@-1',
    'acme/digits@Next',
    'acme/digits@a--b',
    `acme/digits@${'a'.repeat(40)}`,
    ' acme/digits',
    'acme/digits\n',
    'Acme/digits',
    'acme/digits@9999999999',
    `acme/${'a'.repeat(64)}`,
  ]) {
    expect([text, parseHandle(text)]).toEqual([text, null]);
  }
});

test('a plan says which of its fields is wrong', () => {
  const cases: [string, object][] = [
    ['plans[0].name', { name: '' }],
    ['plans[0].name', { name: ' padded' }],
    ['plans[0].name', { name: 'x'.repeat(51) }],
    ['plans[0].unitPriceNanos', { unitPriceNanos: '1.5' }],
    ['plans[0].unitPriceNanos', { unitPriceNanos: '-1' }],
    ['plans[0].unitPriceNanos', { unitPriceNanos: '01' }],
    ['plans[0].unitPriceNanos', { unitPriceNanos: '1000000000000000001' }],
    ['plans[0].freeUnitsPerMonth', { freeUnitsPerMonth: '1e3' }],
    ['plans[0].quotaUnitsPerMonth', { quotaUnitsPerMonth: '1000000000001' }],
    ['plans[0].requestsPerMinute', { requestsPerMinute: 0 }],
    ['plans[0].burst', { burst: 5 }],
    ['plans[0].burst', { requestsPerMinute: 60, burst: 100_001 }],
    ['plans[0].priority', { priority: 10 }],
  ];
  for (const [field, change] of cases) expect(thrown(() => parsePlans([{ ...plan, ...change }], 'EUR'))).toEqual(wrong(field));
  expect(thrown(() => parsePlans([plan, plan], 'EUR'))).toEqual(wrong('plans[1].name'));
  expect(thrown(() => parsePlans([], 'EUR'))).toEqual(wrong('plans'));
  expect(
    thrown(() =>
      parsePlans(
        Array.from({ length: 21 }, (_, i) => ({ ...plan, name: `p${i}` })),
        'EUR',
      ),
    ),
  ).toEqual(wrong('plans'));
});

test('a rate limit without a burst gets a second of it, at least one; no rate limit has none', () => {
  const burst = (requestsPerMinute: number | null) => parsePlans([{ ...plan, requestsPerMinute }], 'EUR')[0]?.terms.burst;
  expect([burst(null), burst(1), burst(59), burst(119), burst(600)]).toEqual([null, 1, 1, 1, 10]);
});

test('the largest amounts are exact', () => {
  const [parsed] = parsePlans([{ ...plan, unitPriceNanos: '1000000000000000000', quotaUnitsPerMonth: '1000000000000' }], 'EUR');
  expect(parsed?.terms).toMatchObject({ unitPriceNanos: 10n ** 18n, quotaUnits: 10n ** 12n, freeUnits: 0n, currency: 'EUR', priority: 0 });
});

test('texts that the database would refuse are refused by name', () => {
  expect(parseSummary('Zwei\nZeilen 🙂')).toBe('Zwei\nZeilen 🙂');
  for (const text of ['a\0b', '\ud800', 'x'.repeat(501)]) expect(thrown(() => parseSummary(text))).toEqual(wrong('summary'));
  for (const tag of ['', 'a\0', '\udfff', ' a', 'x'.repeat(31)]) expect(thrown(() => parseTags(['ok', tag]))).toEqual(wrong('tags[1]'));
  expect(thrown(() => parseTags(['a', 'a']))).toEqual(wrong('tags[1]'));
  expect(thrown(() => parseTags(Array.from({ length: 21 }, (_, i) => String(i))))).toEqual(wrong('tags'));
});

test('a count is a whole number within its bounds, or left out', () => {
  expect([parseCount('n', null, [1, 9]), parseCount('n', undefined, [1, 9]), parseCount('n', 9, [1, 9])]).toEqual([null, null, 9]);
  for (const value of [0, 10, 1.5, Number.NaN]) expect(thrown(() => parseCount('n', value, [1, 9]))).toEqual(wrong('n'));
});

test('a search is words only, whatever is typed', () => {
  expect(searchQuery('Hand-written  DIGITS')).toBe('hand & written & digits:*');
  expect(searchQuery("a' & !b | (c:*)\\")).toBe('a & b & c:*');
  expect(searchQuery(' ?! \0')).toBeNull();
  expect(words('ﬁne Äpfel')).toEqual(['fine', 'äpfel']);
  expect(thrown(() => searchQuery('x'.repeat(201)))).toEqual(wrong('search'));
});
