import { chmodSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type GivenTensor, parseInputs, toBase64 } from '../../src/inference/inference.ts';
import { randomInputs } from '../../src/inference/random-inputs.ts';
import { Client } from '../support/client.ts';
import type { TestDatabase } from '../support/database.ts';
import { signUp } from '../support/people.ts';
import { openMarket } from '../support/server.ts';
import { SECRET_FILE } from './mutate.ts';
import { type Chosen, LATE_MS_MAX, PADDING_BYTES, padded, SECRET, SECRET_START } from './run.ts';

/** `rssMib`: of the server, before every upload and at the end. */
export type Door = { asked: number; outcomes: Record<string, number>; worstLateMs: number; rssMib: number[]; faults: string[] };

/** What `createModelVersion` waits for the gate at most, and the deadline of the calls. */
const UPLOAD_MS = 30_000;
const DEADLINE_MS = 3_000;
/**
 * Of the uploads a quarter warms the server up. After that it may grow by half of what the others brought: one that kept the file of each would grow by all of it. Where they bring less than
 * that, twice the noise of a heap, nothing is said.
 */
const MEMORY = { warmUpShare: 1 / 4, growthShare: 1 / 2, judgedFromMib: 256 };
const PREDICT = `mutation ($input: PredictInput!) { predict(input: $input) { prediction { outputs {
  name datatype shape base64: data(encoding: BASE64) json: data(encoding: JSON) } } } }`;
const CREATE = `mutation ($input: CreateModelVersionInput!) { createModelVersion(input: $input) { modelVersion {
  state rejection { code } handle signature { inputs { name datatype shape dimensions } outputs { name datatype shape dimensions } batchDimension } } } }`;

type Tensor = { name: string; datatype: 'FP32'; shape: number[]; dimensions: (string | null)[] };
type Output = GivenTensor & { base64: string; json: unknown };
type Version = {
  state: string;
  rejection: { code: string } | null;
  handle: string;
  signature: { inputs: Tensor[]; outputs: Tensor[]; batchDimension: string | null } | null;
};

/**
 * Mutants, of which each that the reader rejects has to be rejected here too, uploaded to a server process and called there, with a secret file where its runners work. Its memory is that of the
 * server alone where it has a `database` of its own, and with that of the embedded one else.
 */
export async function throughTheDoor(models: readonly Chosen[], database?: TestDatabase): Promise<Door> {
  const door: Door = { asked: 0, outcomes: {}, worstLateMs: Number.NEGATIVE_INFINITY, rssMib: [], faults: [] };
  await using market = await openMarket(database === undefined ? {} : { database });
  const server = await market.start({ MERCATO_SEED: '0' });
  plant(market.dataDir);
  using client = new Client(server.url, 4);
  const { token } = await signUp(client, 'fuzz');
  const { createModel } = await client.ask<{ createModel: { model: { id: string } } }>(
    'mutation { createModel(input: { name: "fuzz" }) { model { id } } }',
    {},
    token,
  );
  const count = (code: string) => {
    door.outcomes[code] = (door.outcomes[code] ?? 0) + 1;
  };
  const timely = async <Answer>(index: number, deadlineMs: number, ask: () => Promise<Answer>): Promise<Answer> => {
    const startedMs = performance.now();
    const answer = await ask();
    const lateMs = performance.now() - startedMs - deadlineMs;
    door.worstLateMs = Math.max(door.worstLateMs, lateMs);
    if (lateMs > LATE_MS_MAX) door.faults.push(`model ${index} was answered ${lateMs.toFixed(0)} ms after its deadline`);
    return answer;
  };
  for (const [index, { file, rejected }] of models.entries()) {
    door.rssMib.push(rssMib(server.pid));
    door.asked++;
    try {
      const { createUpload } = await client.ask<{ createUpload: { upload: { id: string }; url: string } }>(
        'mutation { createUpload { upload { id } url } }',
        {},
        token,
      );
      await fetch(createUpload.url, { method: 'PUT', body: padded(file) });
      const input = { modelId: createModel.model.id, uploadId: createUpload.upload.id, runLimitMs: 1_000 };
      const made = await timely(index, UPLOAD_MS, () =>
        client.ask<{ createModelVersion: { modelVersion: Version } }>(CREATE, { input }, token),
      );
      const { state, rejection, handle, signature } = made.createModelVersion.modelVersion;
      if (rejected && rejection?.code !== 'MODEL_REJECTED') door.faults.push(`model ${index} is ${state}, and the reader rejects it`);
      if (state !== 'READY' || signature === null) {
        count(state);
        continue;
      }
      const inputs = randomInputs(signature, 2, { size: 3, wholeMax: 3 });
      if (inputs === null) continue;
      const given = inputs.map((input) => ({ ...input, data: toBase64(input) }));
      const answer = await timely(index, DEADLINE_MS, () =>
        client.send(PREDICT, { input: { model: handle, deadlineMs: DEADLINE_MS, inputs: given } }, token),
      );
      const code = answer.errors?.[0]?.extensions.code ?? 'ANSWERED';
      if (code === 'INTERNAL') door.faults.push(`model ${index}: INTERNAL`);
      const predicted = answer.data?.predict as { prediction: { outputs: Output[] } } | null | undefined;
      if (predicted?.prediction.outputs.some(holdsSecret)) door.faults.push(`model ${index}: the secret`);
      count(code);
    } catch (error) {
      door.faults.push(`model ${index}: ${error}`);
    }
  }
  door.rssMib.push(rssMib(server.pid));
  const warm = Math.ceil(models.length * MEMORY.warmUpShare);
  const broughtMib = ((models.length - warm) * PADDING_BYTES) / 2 ** 20;
  const grownMib = (door.rssMib.at(-1) ?? 0) - (door.rssMib[warm] ?? 0);
  if (broughtMib >= MEMORY.judgedFromMib && grownMib > MEMORY.growthShare * broughtMib)
    door.faults.push(`the server grew by ${grownMib} MiB over uploads of ${broughtMib} MiB`);
  if ((await server.kill('SIGTERM')) !== 0) door.faults.push('the server did not end by itself');
  return door;
}

function holdsSecret({ name, datatype, shape, base64, json }: Output): boolean {
  const read = parseInputs([{ name, datatype, shape, data: json }]).map(({ data }) => Buffer.from(data));
  return [Buffer.from(base64, 'base64'), ...read].some((bytes) => bytes.includes(SECRET_START));
}

/** Into every folder that runners of the market work in. */
function plant(dataDir: string): void {
  for (const name of readdirSync(join(dataDir, 'run'))) {
    const folder = join(dataDir, 'run', name, 'w');
    chmodSync(folder, 0o700);
    writeFileSync(join(folder, SECRET_FILE), Buffer.concat(Array<Buffer>(64).fill(SECRET)));
    chmodSync(folder, 0o500);
  }
}

function rssMib(pid: number): number {
  return Math.round(Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024);
}
