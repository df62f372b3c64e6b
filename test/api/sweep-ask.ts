import { readFileSync } from 'node:fs';
import { buildSchema, type GraphQLField, getNamedType, isAbstractType, isInputObjectType } from 'graphql';
import { parseGlobalId } from '../../src/base/ids.ts';
import { wholeQuestion } from '../support/selection.ts';

export const schema = buildSchema(readFileSync(new URL('../../schema.graphql', import.meta.url), 'utf8'));
const queries = schema.getQueryType()?.getFields() ?? {};
/** The fields of Query and Mutation. */
export const ROOTS = { ...queries, ...schema.getMutationType()?.getFields() };

export function rootField(name: string): GraphQLField<unknown, unknown> {
  const field = ROOTS[name];
  if (field === undefined) throw new Error(`no field ${name}`);
  return field;
}

export type Answer = { status: number; text: string /** Of the first error, or OK. */; code: string };

const documents = new Map<string, string>();

/** What asks a field for everything it can answer; of an object by its global id, everything that its type has. */
function documentOf(name: string, { id }: { id?: unknown }): string {
  const field = rootField(name);
  const type = isAbstractType(getNamedType(field.type)) ? (parseGlobalId(String(id))?.type ?? null) : null;
  const key = `${name} ${type}`;
  const made = documents.get(key) ?? wholeQuestion(schema, name in queries ? 'query' : 'mutation', field, type === null ? null : [type]);
  documents.set(key, made);
  return made;
}

/** Asks a field for everything it can answer. */
export async function askWhole(url: string, field: string, variables: object, token: string | null): Promise<Answer> {
  return ask(url, documentOf(field, variables), variables, token);
}

async function ask(url: string, query: string, variables: object, token: string | null): Promise<Answer> {
  const headers = { 'content-type': 'application/json', accept: 'application/graphql-response+json' };
  const response = await fetch(`${url}/graphql`, {
    method: 'POST',
    headers: token === null ? headers : { ...headers, authorization: `Bearer ${token}` },
    body: JSON.stringify({ query, variables }),
  });
  const text = await response.text();
  const { errors } = JSON.parse(text) as { errors?: { extensions: { code: string } }[] };
  return { status: response.status, text, code: errors?.[0]?.extensions.code ?? 'OK' };
}

/** The places among a field's arguments that take an id, a cursor or a name of something. */
export function idPlaces(field: GraphQLField<unknown, unknown>): string[] {
  const isId = (name: string, type: string) => type === 'ID' || /^(after|handle|email|tenantName|idempotencyKey)$/.test(name);
  return field.args.flatMap((arg) => {
    const type = getNamedType(arg.type);
    if (!isInputObjectType(type)) return isId(arg.name, type.name) ? [arg.name] : [];
    return Object.values(type.getFields()).flatMap((inner) =>
      isId(inner.name, getNamedType(inner.type).name) ? [`input.${inner.name}`] : [],
    );
  });
}
