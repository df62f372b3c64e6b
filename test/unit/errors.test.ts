import { readFileSync } from 'node:fs';
import { buildSchema, GraphQLEnumType, GraphQLError } from 'graphql';
import { describe, expect, it } from 'vitest';
import { ERRORS, MercatoError } from '../../src/base/errors.ts';
import { publicError } from '../../src/graphql/errors.ts';
import { REJECTION_RULES } from '../../src/inference/inference.ts';

const root = new URL('../../', import.meta.url);
const codes = Object.keys(ERRORS).sort();

describe('the catalogue of errors', () => {
  it("is the SDL's ErrorCode, no more and no less", () => {
    const type = buildSchema(readFileSync(new URL('schema.graphql', root), 'utf8')).getType('ErrorCode');
    if (!(type instanceof GraphQLEnumType)) throw new Error('ErrorCode is no enum');
    const values = type.getValues();
    expect(values.map((value) => value.name).sort()).toEqual(codes);
    expect(values.filter((value) => !value.description).map((value) => value.name)).toEqual([]);
  });

  it("has the SDL's rules of rejections, no more and no less, each explained", () => {
    const type = buildSchema(readFileSync(new URL('schema.graphql', root), 'utf8')).getType('RejectionRule');
    if (!(type instanceof GraphQLEnumType)) throw new Error('RejectionRule is no enum');
    const values = type.getValues();
    expect(values.map((value) => value.name)).toEqual(REJECTION_RULES);
    expect(values.filter((value) => !value.description)).toEqual([]);
  });

  it('is the table of src/README.md, with its statuses, no more and no less', () => {
    const rows = readFileSync(new URL('src/README.md', root), 'utf8').matchAll(/^\| `([A-Z_]+)` \| *(\d{3}) *\|/gm);
    const table = Object.fromEntries([...rows].map(([, code, http]) => [code, Number(http)]));
    const catalogue = Object.fromEntries(Object.entries(ERRORS).map(([code, { http }]) => [code, http]));
    expect(table).toEqual(catalogue);
  });

  it('has a sentence and an error status for every code', () => {
    for (const { http, text } of Object.values(ERRORS)) {
      expect(http).toBeGreaterThanOrEqual(400);
      expect(text).toMatch(/^[A-Z].*\.$/);
    }
  });
});

describe('what a caller sees of an error', () => {
  it('is the message, code, retryability and data of a MercatoError', () => {
    const shown = publicError(new MercatoError('QUOTA_EXCEEDED', undefined, { limit: '10', used: '10' }));
    expect(shown).toEqual({
      message: ERRORS.QUOTA_EXCEEDED.text,
      extensions: { code: 'QUOTA_EXCEEDED', retryable: false, limit: '10', used: '10' },
    });
  });

  it.each([
    ['an Error', new Error('password of the database')],
    ['a string', 'password of the database'],
    ['a resolver fault', new GraphQLError('password of the database', { path: ['a'], originalError: new Error('x') })],
    ['a result that does not serialize', new GraphQLError('password', { path: ['a'], originalError: new GraphQLError('password') })],
  ])('is nothing but INTERNAL for %s', (_, thrown) => {
    const shown = publicError(thrown);
    expect(shown.extensions.code).toBe('INTERNAL');
    expect(JSON.stringify(shown)).not.toContain('password');
  });

  it('is never longer than a thousand characters of what it was given', () => {
    expect(publicError(new GraphQLError(`Unexpected ${'9'.repeat(1_000_000)}`)).message).toHaveLength(1_000);
  });
});
