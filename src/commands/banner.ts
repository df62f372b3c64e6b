import type { App } from '../app.ts';
import { confinement } from '../inference/inference.ts';
import { exampleDigit } from './seed.ts';

const MUTATION =
  'mutation($input:PredictInput!){predict(input:$input){prediction{outputs{name data} usage{units amount{nanos currency}} timing{computeMs device}}}}';

/** What `npm start` tells a person: where, with which key, and one call that answers. */
export async function banner({ url, demo }: App): Promise<string> {
  const lines = ['', `  Mercato is at ${url}/graphql`, `  Models run     ${runnersLine()}`];
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

/** What holds models back on this system. */
function runnersLine(): string {
  const { inForce, missing } = confinement();
  const here = inForce.length > 0 ? `in processes with ${inForce.join('; ')}` : 'in processes of their own';
  return missing.length > 0 ? `${here} (this system does not allow: ${missing.join('; ')})` : here;
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
