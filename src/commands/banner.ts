import type { App } from '../app.ts';
import { exampleDigit } from './seed.ts';

const MUTATION =
  'mutation($input:PredictInput!){predict(input:$input){prediction{outputs{name data} usage{units amount{nanos currency}} timing{computeMs device}}}}';

/** What `npm start` tells a person: where, with which key, and one call that answers. */
export async function banner({ url, demo }: App): Promise<string> {
  const lines = ['', `  Mercato is at ${url}/graphql`];
  if (demo) {
    lines.push(
      `  Operator       ${demo.operator.email}   password ${demo.operator.password}`,
      `  Consumer demo  ${demo.demo.email}   password ${demo.demo.password}`,
      `  API key        ${demo.apiKey}`,
      '',
      '  A call that answers: the label of a digit, and what it cost.',
      '',
      await curl(url, demo.apiKey ?? ''),
    );
  } else
    lines.push('  No sign-in is kept in this data directory; MERCATO_SEED=1 makes an operator and a demo in a database that has none.');
  return `${lines.join('\n')}\n`;
}

/** One line, so that it can be copied whole. */
async function curl(url: string, apiKey: string): Promise<string> {
  const { base64 } = await exampleDigit();
  const input = {
    model: 'mercato/digits',
    inputs: [{ name: 'image', datatype: 'UINT8', shape: [1, 28, 28], data: base64 }],
    outputs: ['label'],
  };
  const body = JSON.stringify({ query: MUTATION, variables: { input } });
  return `curl -s ${url}/graphql -H 'content-type: application/json' -H 'authorization: Bearer ${apiKey}' -d '${body}'`;
}
