import { setTimeout as sleep } from 'node:timers/promises';
import type { DemoServer } from './demo-server.ts';

const LOOK_MS = 100;
const BAR = 30;
const WORK = 'work { state error { code message field } computeMicros }';

type Work = { state: string; error: { code: string; message: string; field: string | null } | null; computeMicros: string };
type Evaluation = { metric: number };

/** A new tenant; gives the access token of its owner. */
export async function signUp({ ask }: DemoServer, tenantName: string): Promise<string> {
  const input = { email: `${tenantName}@example.com`, password: 'a password of the demo', tenantName };
  const { signUp: made } = await ask<{ signUp: { tokens: { accessToken: string } } }>(
    null,
    'mutation ($input: SignUpInput!) { signUp(input: $input) { tokens { accessToken } } }',
    { input },
  );
  return made.tokens.accessToken;
}

export type DemoDataset = { id: string; rows: number; dimensions: number[]; classes: number };

/** Uploads IDX and waits until it is read. */
export async function makeDataset(server: DemoServer, token: string, name: string, file: Uint8Array): Promise<DemoDataset> {
  const uploadId = await server.upload(token, file);
  const { createDataset } = await server.ask<{ createDataset: { dataset: { id: string } } }>(
    token,
    'mutation ($input: CreateDatasetInput!) { createDataset(input: $input) { dataset { id } } }',
    { input: { name, format: 'IDX', uploadId } },
  );
  const { id } = createDataset.dataset;
  type Node = { work: Work; profile: { rows: number; columns: { dimensions: number[]; classes: unknown[] | null }[] } };
  const { profile } = await ended<Node>(
    server,
    token,
    id,
    `... on Dataset { ${WORK} profile { rows columns { dimensions classes { value } } } }`,
  );
  const [image, label] = profile.columns;
  return { id, rows: profile.rows, dimensions: image?.dimensions ?? [], classes: label?.classes?.length ?? 0 };
}

export type Trained = { modelId: string; versionId: string; handle: string; accuracy: number; computeMicros: number };

/** Trains the digits' net, with a bar of its progress. */
export async function train(
  server: DemoServer,
  token: string,
  data: { datasetId: string; testDatasetId: string },
  write: (text: string) => void,
): Promise<Trained> {
  const { createModel } = await server.ask<{ createModel: { model: { id: string } } }>(
    token,
    'mutation ($input: CreateModelInput!) { createModel(input: $input) { model { id } } }',
    { input: { name: 'digits', summary: 'Reads a handwritten digit' } },
  );
  const modelId = createModel.model.id;
  const layers = [
    { flatten: true },
    { dense: { units: 128, activation: 'RELU' } },
    { dropout: { rate: 0.2 } },
    { dense: { units: 10, activation: 'SOFTMAX' } },
  ];
  const net = { targets: ['label'], layers, loss: 'SPARSE_CROSS_ENTROPY', optimizer: { adam: {} }, epochs: 5, validationShare: 0 };
  const { createTrainingRun } = await server.ask<{ createTrainingRun: { trainingRun: { id: string } } }>(
    token,
    'mutation ($input: CreateTrainingRunInput!) { createTrainingRun(input: $input) { trainingRun { id } } }',
    { input: { ...data, modelId, ...net } },
  );
  type Node = {
    work: Work;
    epochsMax: number;
    epochs: { epoch: number; loss: number; elapsedMs: number }[];
    modelVersion: { id: string; handle: string };
    evaluation: Evaluation;
  };
  const fields = `... on TrainingRun { ${WORK} epochsMax epochs { epoch loss elapsedMs } modelVersion { id handle } evaluation { metric } }`;
  let shown = 0;
  const run = await ended<Node>(server, token, createTrainingRun.trainingRun.id, fields, ({ epochs, epochsMax }) => {
    for (const { epoch, loss, elapsedMs } of epochs.slice(shown)) {
      const done = Math.round((BAR * epoch) / epochsMax);
      write(
        `   [${'█'.repeat(done)}${'·'.repeat(BAR - done)}] epoch ${epoch} of ${epochsMax}  loss ${loss.toFixed(4)}  ${(elapsedMs / 1000).toFixed(2)} s\n`,
      );
      shown = epoch;
    }
  });
  const { id: versionId, handle } = run.modelVersion;
  return { modelId, versionId, handle, accuracy: run.evaluation.metric, computeMicros: Number(run.work.computeMicros) };
}

export type Optimised = {
  versionId: string;
  handle: string;
  sourceSizeBytes: number;
  sizeBytes: number;
  sourceMetric: number;
  metric: number;
  latencies: { rows: number; sourceMs: number; ms: number }[];
  differences: { output: string; worst: number; mean: number }[];
};

/** Makes the variant of 8-bit integers; it is taken for its size, whatever its speed. */
export async function optimise(server: DemoServer, token: string, versionId: string): Promise<Optimised> {
  const { optimizeVersion } = await server.ask<{ optimizeVersion: { optimization: { id: string } } }>(
    token,
    'mutation ($input: OptimizeVersionInput!) { optimizeVersion(input: $input) { optimization { id } } }',
    { input: { versionId, kind: 'STATIC_INT8', rule: { maxAccuracyDrop: 0.005, minSpeedup: 0 } } },
  );
  type Report = Omit<Optimised, 'versionId' | 'handle' | 'sizeBytes' | 'sourceSizeBytes'> & {
    sizeBytes: string;
    sourceSizeBytes: string;
    promotable: boolean;
    reasons: string[];
  };
  type Node = { work: Work; modelVersion: { id: string; handle: string }; report: Report };
  const fields = `... on Optimization { ${WORK} modelVersion { id handle } report { sourceSizeBytes sizeBytes sourceMetric metric promotable reasons
    latencies { rows sourceMs ms } differences { output worst mean } } }`;
  const { modelVersion, report } = await ended<Node>(server, token, optimizeVersion.optimization.id, fields);
  if (!report.promotable) throw new Error(`the variant may not be sold: ${report.reasons.join('; ')}`);
  return {
    versionId: modelVersion.id,
    handle: modelVersion.handle,
    ...report,
    sizeBytes: Number(report.sizeBytes),
    sourceSizeBytes: Number(report.sourceSizeBytes),
  };
}

/** Asks for an object until its work has ended. A failure is thrown in its own words. */
async function ended<T extends { work: Work }>(
  { ask }: DemoServer,
  token: string,
  id: string,
  fields: string,
  look: (node: T) => void = () => {},
): Promise<T> {
  for (;;) {
    const { node } = await ask<{ node: T }>(token, `query ($id: ID!) { node(id: $id) { ${fields} } }`, { id });
    look(node);
    const { state, error } = node.work;
    if (state === 'SUCCEEDED') return node;
    if (state === 'FAILED' || state === 'CANCELLED') throw new Error(`${state}: ${error?.code} ${error?.field ?? ''} ${error?.message}`);
    await sleep(LOOK_MS);
  }
}
