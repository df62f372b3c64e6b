import { readFileSync } from 'node:fs';
import { buildSchema, parse } from 'graphql';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { compilePredict } from '../../src/graphql/compiled.ts';
import { KnownDocuments } from '../../src/graphql/known.ts';
import { Client, type GraphQLAnswer } from '../support/client.ts';
import { wholeQuestion } from '../support/selection.ts';
import { type Demo, type Market, openMarket } from '../support/server.ts';

const schema = buildSchema(readFileSync(new URL('../../schema.graphql', import.meta.url), 'utf8'));
const predict = schema.getMutationType()?.getFields().predict;
if (predict === undefined) throw new Error('the schema has no predict');
const WHOLE = wholeQuestion(schema, 'mutation', predict);
const SOME = 'mutation ($input: PredictInput!) { predict(input: $input) { prediction { id outputs { data } } } }';
/** More often than a document has to come before it is compiled. */
const OFTEN = 20;

let market: Market;
let client: Client;
let demo: Demo;
beforeAll(async () => {
  market = await openMarket();
  client = new Client((await market.start()).url);
  demo = await market.demo();
  for (let use = 0; use < OFTEN; use++) await client.send(SOME, { input: { model: 'mercato/nothing', inputs: [] } }, demo.apiKey);
}, 60_000);
afterAll(async () => {
  client[Symbol.dispose]();
  expect(await market.audit()).toContain('invariants hold');
  await market[Symbol.asyncDispose]();
});

const IMAGE = { name: 'image', datatype: 'UINT8', shape: [1, 28, 28], data: Buffer.alloc(784).toString('base64') };
const GOOD = { model: 'mercato/digits', inputs: [IMAGE] };

let spaces = 0;
/** The answer by Apollo: each of these sources is new to the server, and means the same. */
const byApollo = (source: string, variables: object) => client.send(source + ' '.repeat(++spaces), variables, demo.apiKey);

test('all of a replayed prediction is the same by Apollo, by graphql-js and by compiled code', async () => {
  const variables = { input: { ...GOOD, idempotencyKey: 'whole' } };
  await client.send(WHOLE, variables, demo.apiKey);
  const answers: GraphQLAnswer[] = [];
  for (let use = 0; use < OFTEN; use++) answers.push(await client.send(WHOLE, variables, demo.apiKey));
  expect(compilePredict(schema, parse(WHOLE))).not.toBeNull();
  const answer = await byApollo(WHOLE, variables);
  expect(answer).toMatchObject({ data: { predict: { prediction: { modelVersion: { handle: 'mercato/digits@1' }, replayed: true } } } });
  for (const other of answers) expect(other).toEqual(answer);
});

test('a prediction that comes often is compiled, another document never', () => {
  const known = new KnownDocuments(schema);
  const changes = ['{ models(first: 1) { nodes { id } } }', SOME].map((query) => {
    known.remember(query, parse(query));
    const first = known.find({ query })?.execute;
    for (let use = 0; use < OFTEN; use++) known.find({ query });
    return known.find({ query })?.execute !== first;
  });
  expect(changes).toEqual([false, true]);
});

const WRONG: [string, object][] = [
  ['no variables', {}],
  ['a null', { input: null }],
  ['a list for the input', { input: [GOOD] }],
  ['lists for the tensors', { input: { ...GOOD, inputs: [[IMAGE]] } }],
  ['an unknown field', { input: { ...GOOD, modle: 'x' } }],
  ['an inherited name', { input: { ...GOOD, constructor: 'x' } }],
  ['a missing field', { input: { model: 'mercato/digits' } }],
  ['a null tensor', { input: { ...GOOD, inputs: [null] } }],
  ['an unknown datatype', { input: { ...GOOD, inputs: [{ ...IMAGE, datatype: 'FP31' }] } }],
  ['an inherited datatype', { input: { ...GOOD, inputs: [{ ...IMAGE, datatype: 'toString' }] } }],
  ['a fraction in the shape', { input: { ...GOOD, inputs: [{ ...IMAGE, shape: [1, 28.5, 28] }] } }],
  ['a text in the shape', { input: { ...GOOD, inputs: [{ ...IMAGE, shape: ['1', 28, 28] }] } }],
  ['data of another kind', { input: { ...GOOD, inputs: [{ ...IMAGE, data: { a: 1 } }] } }],
  ['a number for the model', { input: { ...GOOD, model: 7 } }],
  ['a deadline beyond 32 bits', { input: { ...GOOD, deadlineMs: 2 ** 31 } }],
  ['an unknown model', { input: { ...GOOD, model: 'mercato/nothing' } }],
  ['an unknown output', { input: { ...GOOD, outputs: ['nothing'] } }],
  ['a tensor of another shape', { input: { ...GOOD, inputs: [{ ...IMAGE, shape: [1, 28, 27] }] } }],
];

test.each(WRONG)('%s is refused by compiled code in the words of Apollo', async (_, variables) => {
  const answer = await client.send(SOME, variables, demo.apiKey);
  expect(answer.errors?.[0]?.extensions.code).toMatch(/BAD_USER_INPUT|NOT_FOUND/);
  expect(answer).toEqual(await byApollo(SOME, variables));
});

test('one tensor for the list of inputs, and nested JSON for its data, mean the same in compiled code', async () => {
  const digit = Array.from({ length: 28 }, () => Array.from({ length: 28 }, () => 0));
  const inputs = { name: 'image', datatype: 'UINT8', data: [digit] };
  const variables = { input: { model: 'mercato/digits', inputs, outputs: 'label', deadlineMs: null, idempotencyKey: 'coerced' } };
  const answer = await byApollo(SOME, variables);
  expect(await client.send(SOME, variables, demo.apiKey)).toEqual(answer);
  expect(answer.errors).toBeUndefined();
});

// graphql-jit 0.8.9 ends a string at this mark of its own, and runs what follows.
const MARK = '__MAGIC_DATE__33a9e76d_02e0_4128_8e92_3530ad3da74d';

test.each([
  ['a literal', 'mutation { predict(input: { model: "a/b", inputs: [] }) { prediction { id } } }'],
  [
    'a literal that runs',
    `mutation { predict(input: { model: "${MARK}0+globalThis.process.exit(7)", inputs: [] }) { prediction { id } } }`,
  ],
  ['a number', 'mutation ($x: [TensorInput!]!) { predict(input: { deadlineMs: 1, inputs: $x }) { prediction { id } } }'],
  ['a default', 'mutation ($input: PredictInput! = { model: "a/b", inputs: [] }) { predict(input: $input) { prediction { id } } }'],
  ['an inherited name for a variable', 'mutation ($constructor: PredictInput!) { predict(input: $constructor) { prediction { id } } }'],
  ['a prototype for a name', 'mutation ($input: PredictInput!) { predict(input: $input) { prediction { __proto__: id } } }'],
  [
    'a directive',
    'mutation ($input: PredictInput!, $a: Boolean!) { predict(input: $input) { prediction { id @skip(if: $a) units: id } } }',
  ],
  [
    'a fragment',
    'mutation ($input: PredictInput!) { predict(input: $input) { ...more } } fragment more on PredictPayload { prediction { id } }',
  ],
  ['an inline fragment', 'mutation ($input: PredictInput!) { predict(input: $input) { ... { prediction { id } } } }'],
  ['another field', 'mutation { createUpload { url } }'],
  ['a query', '{ models { nodes { id } } }'],
  ['two operations', `${SOME.replace('(', 'One (')} query Two { viewer { scopes } }`],
])('a document with %s is not compiled', (_, source) => {
  expect(compilePredict(schema, parse(source))).toBeNull();
});

test('names, aliases, variables, enums and booleans are all that a compiled document has of its sender', () => {
  const source =
    'mutation Mine($input: PredictInput!, $how: TensorEncoding!) { answer: predict(input: $input) { __typename prediction { outputs { name data(encoding: $how) text: data(encoding: BASE64) } } } }';
  expect(compilePredict(schema, parse(source))).not.toBeNull();
});
