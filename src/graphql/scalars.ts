import { GraphQLError, GraphQLScalarType, Kind, type ValueNode } from 'graphql';
import { LIMITS } from '../base/limits.ts';

const RFC3339 = /^(\d{4})-(\d\d)-(\d\d)[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)$/;
const EARLIEST_MS = Date.UTC(1970, 0, 1);
const LATEST_MS = Date.UTC(9999, 11, 31, 23, 59, 59, 999);

/** Any offset on input, to the millisecond; the years 1970 to 9999. */
function parseInstant(value: unknown): Date {
  const parts = typeof value === 'string' ? RFC3339.exec(value) : null;
  const instant = parts ? new Date(parts[0].toUpperCase()) : null;
  const ms = instant?.getTime() ?? Number.NaN;
  if (!parts || !instant || !(ms >= EARLIEST_MS && ms <= LATEST_MS) || !isDay(Number(parts[1]), Number(parts[2]), Number(parts[3]))) {
    throw new GraphQLError('A DateTime is an RFC 3339 instant from 1970 to 9999, as "2026-11-23T09:30:00.000Z".');
  }
  return instant;
}

/** JavaScript takes 30 February for 2 March. */
function isDay(year: number, month: number, day: number): boolean {
  return day >= 1 && day <= new Date(Date.UTC(year, month, 0)).getUTCDate();
}

const dateTime = new GraphQLScalarType<Date, string>({
  name: 'DateTime',
  serialize(value) {
    if (!(value instanceof Date)) throw new TypeError('a DateTime field must resolve to a Date');
    return value.toISOString();
  },
  parseValue: parseInstant,
  parseLiteral: (node) => parseInstant(node.kind === Kind.STRING ? node.value : null),
});

/** The elements are looked at by `prediction/`, once, against the datatype: a scalar that walked them would do so twice. */
function parseTensorData(value: unknown): unknown {
  if (typeof value === 'string' || Array.isArray(value)) return value;
  throw new GraphQLError('TensorData is a base64 string or a list.');
}

function literalElement(node: ValueNode, depth: number): unknown {
  switch (node.kind) {
    case Kind.LIST:
      if (depth >= LIMITS.tensorRank) throw new GraphQLError(`TensorData has at most ${LIMITS.tensorRank} dimensions.`, { nodes: node });
      return node.values.map((value) => literalElement(value, depth + 1));
    case Kind.INT: {
      // An INT64 literal beyond 2^53 keeps its digits, as the strings of JSON do.
      const number = Number(node.value);
      return Number.isSafeInteger(number) ? number : node.value;
    }
    case Kind.FLOAT:
      return Number(node.value);
    case Kind.STRING:
    case Kind.BOOLEAN:
      return node.value;
    case Kind.VARIABLE:
      throw new GraphQLError('A variable cannot be a part of TensorData; make all of it one variable.', { nodes: node });
    default:
      throw new GraphQLError('TensorData holds numbers, strings, true and false.', { nodes: node });
  }
}

const tensorData = new GraphQLScalarType<unknown, unknown>({
  name: 'TensorData',
  serialize: (value) => value,
  parseValue: parseTensorData,
  parseLiteral: (node) => parseTensorData(literalElement(node, 0)),
});

/** Only answered, never asked. */
const json = new GraphQLScalarType<unknown, unknown>({ name: 'JSON', serialize: (value) => value });

export const scalars = { DateTime: dateTime, TensorData: tensorData, JSON: json };
