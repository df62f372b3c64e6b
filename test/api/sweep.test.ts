import {
  buildClientSchema,
  getIntrospectionQuery,
  getNamedType,
  type IntrospectionQuery,
  isInterfaceType,
  isObjectType,
  lexicographicSortSchema,
  printSchema,
} from 'graphql';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asAdmin } from '../support/admin.ts';
import { textsIn } from '../support/rows.ts';
import { typesBelow } from '../support/selection.ts';
import { askWhole, idPlaces, ROOTS, rootField, schema } from './sweep-ask.ts';
import { cursor, type Foreign, foreignOf, global, type Kind, spellings, TABLES } from './sweep-ids.ts';
import { type Own, QUESTIONS, type Question } from './sweep-questions.ts';
import { type Caller, MARK, openWorld, type World } from './sweep-world.ts';

const KINDS = Object.keys(TABLES) as Kind[];

let world: World;
let foreign: Foreign;
let own: Own;
let sent: { there: string[]; nowhere: string[] };
beforeAll(async () => {
  world = await openWorld();
  foreign = await foreignOf(world);
  sent = { there: spellings(foreign.there), nowhere: spellings(foreign.nowhere) };
  const { tenantId } = world.stranger.principal;
  const { catalog } = world.app.services;
  const model = await catalog.createModel(tenantId, { name: 'beside' });
  const { upload } = await catalog.createUpload(tenantId);
  let count = 0;
  const [dataset] = await asAdmin(world.db, (tx) => tx.dataset.findMany({ where: { tenantId } }));
  own = {
    modelId: model.id,
    uploadId: upload.id,
    datasetId: dataset?.id ?? '',
    email: world.stranger.email,
    password: 'correct horse battery',
    counter: () => ++count,
  };
}, 240_000);
afterAll(() => world[Symbol.asyncDispose]());

const ask = (question: Question, variables: object, token: string | null) => askWhole(world.app.url, question.field, variables, token);

/**
 * The text with what was sent blanked out; ids of things that are there and of things that are nowhere become the same. The caller's own
 * `lastUsedAt` moves by the asking itself.
 */
function blank(text: string, given: string[]): string {
  const still = text.replaceAll(/"lastUsedAt":(null|"[^"]*")/g, '"lastUsedAt":<when>');
  return given.reduce((rest, one, index) => rest.replaceAll(one, `<${index}>`), still);
}

/** What of the foreign tenants an answer shows besides what was sent. */
function leaks(text: string, variables: object): string[] {
  const given = JSON.stringify(variables);
  const rest = sent.there.filter((one) => given.includes(one)).reduce((left, one) => left.replaceAll(one, ''), text);
  return foreign.needles.filter((needle) => rest.includes(needle));
}

/** The code that a caller gets who may not ask; null: it may. */
function refusalOf(caller: Caller, { scope }: Question): string | null {
  if (scope === 'everybody' || scope === 'credentials') return null;
  if (caller.token === null) return 'UNAUTHENTICATED';
  const may =
    scope === 'anybody' ||
    (scope === 'person' && caller.isPerson) ||
    (scope === 'operator' && caller.isOperator) ||
    caller.scopes.has(scope as never);
  return may ? null : 'FORBIDDEN';
}

async function check(question: Question, caller: Caller, there: object, nowhere: object): Promise<void> {
  const about = `${caller.name} asks ${question.field} ${JSON.stringify(there)}`;
  const answer = await ask(question, there, caller.token);
  const absent = await ask(question, nowhere, caller.token);
  expect(leaks(answer.text, there), about).toEqual([]);
  expect(answer.text, about).not.toContain('INTERNAL');
  const refusal = refusalOf(caller, question);
  if (refusal !== null) expect(answer.code, about).toBe(refusal);
  else if (question.scope !== 'credentials') expect(answer.code, about).not.toMatch(/FORBIDDEN|UNAUTHENTICATED/);
  if (question.differs && refusal === null) return;
  expect(blank(answer.text, sent.there), about).toBe(blank(absent.text, sent.nowhere));
  expect(answer.status, about).toBe(absent.status);
}

/** Sign-in and sign-up look at no caller, the public catalogue at no scope; the operator may know every tenant by its id or name. */
function callersOf({ field, scope, operatorSees }: Question): Caller[] {
  if (scope === 'credentials') return world.callers.slice(0, 2);
  if (scope === 'operator' || operatorSees) return world.callers.filter((caller) => !caller.isOperator);
  return scope === 'everybody' && field !== 'node' ? world.callers.filter(({ scopes }) => scopes.size !== 1) : world.callers;
}

// Those that make something of an absent name come last: after them it is absent no more.
const IN_ORDER = QUESTIONS.toSorted((a, b) => Number(a.differs ?? false) - Number(b.differs ?? false));

describe("another tenant's things", { shuffle: false }, () => {
  /** As the question before left them. */
  let rows: unknown = null;

  it.each(IN_ORDER)(
    'are to $field as if they were not there, whoever asks, and stay as they are',
    { timeout: 120_000 },
    async (question) => {
      const before = rows ?? (await foreign.rows());
      const there = question.variables(foreign.there, own);
      const nowhere = question.variables(foreign.nowhere, own);
      for (const caller of callersOf(question)) {
        // Who may not ask is refused before anything is looked at.
        const sets = refusalOf(caller, question) === null ? there : there.slice(0, 1);
        for (const [index, variables] of sets.entries()) await check(question, caller, variables, nowhere[index] ?? {});
      }
      rows = await foreign.rows();
      expect(rows).toEqual(before);
    },
  );

  it('are found by the same questions where their owner asks', async () => {
    const node = QUESTIONS.find(({ field }) => field === 'node');
    if (!node) throw new Error('no question for node');
    for (const kind of KINDS) {
      const found: string[] = [];
      for (const id of global(kind, foreign.there)) {
        const answers = await Promise.all([world.hidden, world.shop].map(({ token }) => ask(node, { id }, token)));
        const shown = answers.filter(({ text }) => text.includes(id));
        expect(shown, `${kind} ${id}`).not.toEqual([]);
        found.push(...shown.flatMap(({ text }) => leaks(text, { id })));
      }
      expect(found, kind).not.toEqual([]);
    }
  });
});

describe('the sweep', () => {
  it('sweeps the schema that is served', async () => {
    const headers = { 'content-type': 'application/json' };
    const body = JSON.stringify({ query: getIntrospectionQuery({ oneOf: true }) });
    const response = await fetch(`${world.app.url}/graphql`, { method: 'POST', headers, body });
    const { data } = (await response.json()) as { data: IntrospectionQuery };
    expect(data.__schema.subscriptionType?.name).toBe('LiveQuery');
    expect(printSchema(lexicographicSortSchema(buildClientSchema(data)))).toBe(printSchema(lexicographicSortSchema(schema)));
  });

  it('knows every field of Query and Mutation', () => {
    expect(QUESTIONS.map(({ field }) => field).sort()).toEqual(Object.keys(ROOTS).sort());
  });

  it('asks for every object type', () => {
    const asked = new Set(QUESTIONS.flatMap(({ field }) => [...typesBelow(schema, getNamedType(rootField(field).type))]));
    const types = Object.values(schema.getTypeMap()).filter((type) => isObjectType(type) && !type.name.startsWith('__'));
    expect(types.map((type) => type.name).filter((name) => !asked.has(name) && !['Query', 'Mutation', 'LiveQuery'].includes(name))).toEqual(
      [],
    );
  });

  it('has a foreign object of every type that has a global id', () => {
    const node = schema.getType('Node');
    const types = isInterfaceType(node) ? schema.getPossibleTypes(node) : [];
    expect(types.map((type) => type.name).sort()).toEqual([...KINDS].sort());
    for (const kind of KINDS) expect(foreign.there[kind], kind).not.toEqual([]);
  });

  it('sends a foreign id, cursor or name at every place that takes one', () => {
    const known = new Set([...sent.there, ...KINDS.flatMap((kind) => foreign.there[kind].map(cursor))]);
    const missed = QUESTIONS.flatMap((question) => {
      const sets = question.variables(foreign.there, own);
      const valueAt = (set: object, place: string) =>
        place.split('.').reduce<unknown>((at, key) => (at as Record<string, unknown>)[key], set);
      return idPlaces(rootField(question.field))
        .filter((place) => !sets.some((set) => known.has(String(valueAt(set, place))) || String(valueAt(set, place)).startsWith(MARK)))
        .map((place) => `${question.field} ${place}`);
    });
    expect(missed).toEqual(['addCredit input.idempotencyKey']);
  });

  it('looks for something in every text column that tenants fill', async () => {
    const texts = textsIn(Object.fromEntries(await foreign.rows()));
    expect([...texts].filter((text) => text.includes(MARK) && !foreign.needles.includes(JSON.stringify(text).slice(1, -1)))).toEqual([]);
    const rows = await foreign.rows();
    const columns = [...rows].flatMap(([table, list]) =>
      Object.keys(list[0] ?? {})
        .filter((column) => list.some((row) => JSON.stringify(row[column] ?? null).includes(MARK)))
        .map((column) => `${table}.${column}`),
    );
    expect(columns.sort()).toEqual(MARKED);
  });
});

/** Columns in which the foreign tenants have a text of their own. */
const MARKED = [
  'api_key.name',
  'app_user.email',
  'dataset.name',
  'idempotency_key.key',
  'listing.handle',
  'listing.search',
  'listing.summary',
  'listing.tags',
  'model.name',
  'mutation_key.key',
  'plan.name',
  'tenant.display_name',
  'tenant.name',
  'transfer.note',
  'usage_limit.name',
];
