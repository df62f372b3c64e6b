import { afterAll, beforeAll, expect, test } from 'vitest';
import { LIMITS } from '../../src/base/limits.ts';
import { bombModel } from '../inference/tiny-models.ts';
import { Client, type GraphQLAnswer } from '../support/client.ts';
import { offer } from '../support/offer.ts';
import { billOf } from '../support/people.ts';
import { type Market, openMarket } from '../support/server.ts';

let market: Market;
let client: Client;
let token: string;
beforeAll(async () => {
  market = await openMarket();
  client = new Client((await market.start()).url);
  ({ token } = await offer(client, { maker: 'bomber', name: 'zeros', file: bombModel(), bounds: {} }));
}, 60_000);
afterAll(async () => {
  client[Symbol.dispose]();
  expect(await market.audit()).toContain('invariants hold');
  await market[Symbol.asyncDispose]();
});

const documentOf = (data: string, more = '') =>
  `mutation ($input: PredictInput!${more}) { predict(input: $input) { prediction { outputs { shape ${data} } } } }`;
/** `count` zeros of four bytes, as the document wants them written. */
async function zeros(count: number, document: string, variables: object = {}): Promise<GraphQLAnswer> {
  const inputs = [{ name: 'x', datatype: 'INT64', shape: [1], data: [String(count)] }];
  return client.send(document, { input: { model: 'bomber/zeros', inputs }, ...variables }, token);
}
const refusalOf = ({ errors }: GraphQLAnswer) => errors?.[0]?.extensions;
const predictions = async () => (await billOf(client, token)).predictions;

const MOST = LIMITS.answerBytes / 4;
const AS_JSON = Math.floor(LIMITS.answerChars / 25);

test('outputs of more bytes than an answer may have are refused unbilled, however they are to be written', async () => {
  const before = await predictions();
  for (const data of ['', 'data', 'data(encoding: BASE64)']) {
    expect(refusalOf(await zeros(MOST + 1, documentOf(data)))).toMatchObject({
      ...{ code: 'MODEL_FAILED', rule: 'OUTPUTS', limit: String(LIMITS.answerBytes) },
    });
  }
  expect(await predictions()).toBe(before);
});

const ENCODED = documentOf('data(encoding: $encoding)', ', $encoding: TensorEncoding!');
test.each([
  ['as JSON', AS_JSON + 1, documentOf('data'), {}],
  ['as JSON by a variable', AS_JSON + 1, ENCODED, { encoding: 'JSON' }],
  ['twice as JSON', AS_JSON / 2 + 1, documentOf('data again: data'), {}],
  ['twice as JSON, in a fragment', AS_JSON / 2 + 1, `${documentOf('data ...again')} fragment again on Tensor { again: data }`, {}],
  ['twice as Base64', MOST / 2 + 1, documentOf('data(encoding: BASE64) again: data(encoding: BASE64)'), {}],
])('outputs that would be too long a text %s are refused unbilled, with what would be right', async (_, count, document, variables) => {
  // From its 16th use a document is compiled.
  for (let use = 0; use < 15; use++) expect((await zeros(1, document, variables)).errors).toBeUndefined();
  const before = await predictions();
  for (let use = 0; use < 2; use++) {
    expect(refusalOf(await zeros(Math.ceil(count), document, variables))).toMatchObject({
      ...{ code: 'BAD_USER_INPUT', field: 'outputs', expected: `at most ${LIMITS.answerChars}`, limit: String(LIMITS.answerChars) },
    });
  }
  expect(await predictions()).toBe(before);
  const bytes = await zeros(Math.ceil(count), ENCODED, { encoding: 'BASE64' });
  expect(bytes.errors).toBeUndefined();
});
