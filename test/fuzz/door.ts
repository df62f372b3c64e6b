import { chmodSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { randomInputs } from '../../src/inference/random-inputs.ts';
import { Client } from '../support/client.ts';
import type { TestDatabase } from '../support/database.ts';
import { signUp } from '../support/people.ts';
import { openMarket } from '../support/server.ts';
import { SECRET_FILE } from './mutate.ts';
import { SECRET } from './run.ts';

export type Door = { asked: number; outcomes: Record<string, number>; worstLateMs: number; rssMib: number[]; faults: string[] };

const DEADLINE_MS = 3_000;
const LATE_MS_MAX = 250;
const PREDICT = 'mutation ($input: PredictInput!) { predict(input: $input) { prediction { outputs { name data(encoding: BASE64) } } } }';
const CREATE = `mutation ($input: CreateModelVersionInput!) { createModelVersion(input: $input) { modelVersion {
  state handle signature { inputs { name datatype shape dimensions } outputs { name datatype shape dimensions } batchDimension } } } }`;

type Tensor = { name: string; datatype: 'FP32'; shape: number[]; dimensions: (string | null)[] };
type Version = { state: string; handle: string; signature: { inputs: Tensor[]; outputs: Tensor[]; batchDimension: string | null } | null };

/**
 * Models that the reader let through, uploaded to a server process and called there, with a secret file where its runners work. Its memory is that of the
 * server alone where it has a `database` of its own, and with that of the embedded one else.
 */
export async function throughTheDoor(models: readonly Uint8Array[], database?: TestDatabase): Promise<Door> {
  const door: Door = { asked: 0, outcomes: {}, worstLateMs: 0, rssMib: [], faults: [] };
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
  for (const [index, model] of models.entries()) {
    if (index % Math.ceil(models.length / 8) === 0) door.rssMib.push(rssMib(server.pid));
    door.asked++;
    try {
      const { createUpload } = await client.ask<{ createUpload: { upload: { id: string }; url: string } }>(
        'mutation { createUpload { upload { id } url } }',
        {},
        token,
      );
      await fetch(createUpload.url, { method: 'PUT', body: Uint8Array.from(model) });
      const input = { modelId: createModel.model.id, uploadId: createUpload.upload.id, runLimitMs: 1_000 };
      const made = await client.ask<{ createModelVersion: { modelVersion: Version } }>(CREATE, { input }, token);
      const { state, handle, signature } = made.createModelVersion.modelVersion;
      if (state !== 'READY' || signature === null) {
        count(state);
        continue;
      }
      const inputs = randomInputs(signature, 2, { size: 3, wholeMax: 3 });
      if (inputs === null) continue;
      const given = inputs.map(({ name, datatype, shape, data }) => ({
        name,
        datatype,
        shape,
        data: Buffer.from(data).toString('base64'),
      }));
      const startedMs = performance.now();
      const answer = await client.send(PREDICT, { input: { model: handle, deadlineMs: DEADLINE_MS, inputs: given } }, token);
      const lateMs = performance.now() - startedMs - DEADLINE_MS;
      door.worstLateMs = Math.max(door.worstLateMs, lateMs);
      if (lateMs > LATE_MS_MAX) door.faults.push(`model ${index} was answered ${lateMs.toFixed(0)} ms after its deadline`);
      const code = answer.errors?.[0]?.extensions.code ?? 'ANSWERED';
      if (code === 'INTERNAL') door.faults.push(`model ${index}: INTERNAL`);
      if (Buffer.from(JSON.stringify(answer.data)).includes(SECRET.subarray(0, 16).toString('base64').slice(0, 18)))
        door.faults.push(`model ${index}: the secret`);
      count(code);
    } catch (error) {
      door.faults.push(`model ${index}: ${error}`);
    }
  }
  door.rssMib.push(rssMib(server.pid));
  if ((await server.kill('SIGTERM')) !== 0) door.faults.push('the server did not end by itself');
  return door;
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
