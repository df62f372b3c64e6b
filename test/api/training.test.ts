import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { Client } from '../support/client.ts';
import { type Market, openMarket, type Server } from '../support/server.ts';

const CUSTOMERS = ['months,plan,bill,left'];
for (let row = 0; row < 200; row++) {
  const left = row % 3 === 0;
  CUSTOMERS.push(
    [left ? row % 7 : 20 + (row % 11), row % 5 === 0 ? '' : left ? 'basic' : 'plus', 10 + (row % 13), left ? 'yes' : 'no'].join(','),
  );
}
const HOUSES = [
  'area,rooms,price',
  ...Array.from({ length: 200 }, (_, row) => [20 + row, 1 + (row % 5), 1000 * (20 + row) + 500 * (row % 5)].join(',')),
];

let market: Market;
let server: Server;
let client: Client;
let token: string;
beforeAll(async () => {
  market = await openMarket();
  server = await market.start();
  client = new Client(server.url);
  token = await signUp('trainer');
});
afterAll(async () => {
  client[Symbol.dispose]();
  await market[Symbol.asyncDispose]();
});

const call = (name: string, input: string, selection: string) => `mutation ($input: ${input}!) { ${name}(input: $input) { ${selection} } }`;

async function signUp(tenantName: string): Promise<string> {
  const input = { email: `${tenantName}@example.com`, password: 'a long password', tenantName };
  const made = await client.ask<{ signUp: { tokens: { accessToken: string } } }>(
    call('signUp', 'SignUpInput', 'tokens { accessToken }'),
    { input },
    null,
  );
  return made.signUp.tokens.accessToken;
}

async function upload(bytes: string): Promise<string> {
  const { createUpload } = await client.ask<{ createUpload: { upload: { id: string }; url: string } }>(
    'mutation { createUpload { upload { id } url } }',
    {},
    token,
  );
  const put = await fetch(createUpload.url, { method: 'PUT', body: bytes });
  expect(put.status).toBe(200);
  return createUpload.upload.id;
}

type Work = { state: string; error: { code: string; message: string; field: string | null } | null; computeMicros: string };
type Node = { work: Work } & Record<string, unknown>;

/** The object, once its work has ended. */
async function ended<T extends Node>(id: string, fields: string): Promise<T> {
  const query = `query ($id: ID!) { node(id: $id) { ${fields} } }`;
  return vi.waitFor(
    async () => {
      const { node } = await client.ask<{ node: T }>(query, { id }, token);
      expect(node.work.state).toMatch(/SUCCEEDED|FAILED|CANCELLED/);
      return node;
    },
    { timeout: 60_000, interval: 100 },
  );
}

const WORK = 'work { state error { code message field } computeMicros }';

async function dataset(lines: string[], badRowsMax = 0) {
  const input = { name: 'rows', format: 'CSV', uploadId: await upload(`${lines.join('\n')}\n`), badRowsMax };
  const { createDataset } = await client.ask<{ createDataset: { dataset: { id: string } } }>(
    call('createDataset', 'CreateDatasetInput', 'dataset { id }'),
    { input },
    token,
  );
  const fields = `... on Dataset { ${WORK} profile { rows badRows { count first { line reason } } columns { name type missing distinct classes { value rows } } samples } }`;
  type Profile = { rows: number; badRows: { count: number; first: object[] }; columns: object[]; samples: object[] };
  return { id: createDataset.dataset.id, ...(await ended<Node & { profile: Profile | null }>(createDataset.dataset.id, fields)) };
}

let models = 0;
async function createModel(): Promise<{ id: string; handle: string }> {
  const input = { name: `model-${++models}` };
  const { createModel: made } = await client.ask<{ createModel: { model: { id: string; handle: string } } }>(
    call('createModel', 'CreateModelInput', 'model { id handle }'),
    { input },
    token,
  );
  return made.model;
}

const RUN = `... on TrainingRun { ${WORK} epochs { epoch loss validationLoss validationMetric } modelVersion { id handle sha256 }
  evaluation { rows metric classification { accuracy confusion classes { name } calibration { rows } } regression { r2 meanAbsoluteError } }
  deployments { work { state } alias reasons promoted { handle } optimizations { kind report { promotable reasons } } } }`;
type Run = Node & {
  epochs: { epoch: number; loss: number }[];
  modelVersion: { id: string; handle: string; sha256: string } | null;
  evaluation: { rows: number; metric: number; classification: object | null; regression: object | null } | null;
  deployments: {
    alias: string;
    reasons: string[];
    promoted: { handle: string } | null;
    optimizations: object[];
    work: { state: string };
  }[];
};

async function startRun(input: Record<string, unknown>): Promise<string> {
  const { createTrainingRun } = await client.ask<{ createTrainingRun: { trainingRun: { id: string } } }>(
    call('createTrainingRun', 'CreateTrainingRunInput', 'trainingRun { id }'),
    { input },
    token,
  );
  return createTrainingRun.trainingRun.id;
}

const CLASSIFIER = {
  targets: ['left'],
  layers: [{ dense: { units: 8, activation: 'RELU' } }, { dropout: { rate: 0.1 } }, { dense: { units: 2, activation: 'SOFTMAX' } }],
  loss: 'SPARSE_CROSS_ENTROPY',
  optimizer: { adam: { learningRate: 0.01 } },
  epochs: 20,
};

async function predict(model: string, inputs: object[]): Promise<Record<string, unknown[]>> {
  const { predict: made } = await client.ask<{ predict: { prediction: { outputs: { name: string; data: unknown[] }[] } } }>(
    call('predict', 'PredictInput', 'prediction { outputs { name data } }'),
    { input: { model, inputs } },
    token,
  );
  return Object.fromEntries(made.prediction.outputs.map(({ name, data }) => [name, data]));
}

const numbers = (name: string, data: (number | string)[]) => ({ name, datatype: 'FP32', shape: [data.length], data });

describe('by the API alone', () => {
  it('a CSV becomes a classifier that takes raw columns, evaluated on rows it never saw', async () => {
    const rows = await dataset(CUSTOMERS);
    expect(rows.profile).toMatchObject({ rows: 200, badRows: { count: 0 } });
    expect(rows.profile?.columns[1]).toMatchObject({ name: 'plan', type: 'CATEGORY', missing: 40 });
    expect(rows.profile?.samples).toHaveLength(10);
    const model = await createModel();
    const run = await ended<Run>(await startRun({ ...CLASSIFIER, datasetId: rows.id, modelId: model.id }), RUN);
    expect(run.work).toMatchObject({ state: 'SUCCEEDED', error: null });
    expect(Number(run.work.computeMicros)).toBeGreaterThan(0);
    expect(run.epochs.map(({ epoch }) => epoch)).toEqual(Array.from({ length: 20 }, (_, index) => index + 1));
    expect(run.evaluation).toMatchObject({ rows: 40, regression: null });
    expect(run.evaluation?.metric).toBeGreaterThan(0.9);
    const answer = await predict(model.handle, [
      numbers('months', [2, 25]),
      { name: 'plan', datatype: 'BYTES', shape: [2], data: ['', 'plus'] },
      numbers('bill', [15, 'NaN']),
    ]);
    expect(answer.label).toEqual(['yes', 'no']);
  });

  it('a CSV becomes a regression by gradient descent on the mean squared error', async () => {
    const rows = await dataset(HOUSES);
    const model = await createModel();
    const linear = {
      task: 'REGRESSION',
      targets: ['price'],
      layers: [{ dense: { units: 1 } }],
      loss: 'MEAN_SQUARED_ERROR',
      optimizer: { gradientDescent: { learningRate: 0.1 } },
      epochs: 30,
    };
    const run = await ended<Run>(await startRun({ ...linear, datasetId: rows.id, modelId: model.id }), RUN);
    expect(run.work).toMatchObject({ state: 'SUCCEEDED', error: null });
    expect(run.evaluation?.metric).toBeGreaterThan(0.999);
    const { price } = await predict(model.handle, [numbers('area', [100]), numbers('rooms', [3])]);
    expect(Number(price?.[0])).toBeGreaterThan(95_000);
    expect(Number(price?.[0])).toBeLessThan(107_000);
  });

  it('bad rows are counted with their lines, and refused above the limit', async () => {
    const lines = ['a,b', '1,2', '3', '4,5'];
    expect((await dataset(lines, 1)).profile?.badRows).toEqual({ count: 1, first: [{ line: 3, reason: '1 cells instead of 2' }] });
    const refused = await dataset(lines);
    expect(refused.profile).toBeNull();
    expect(refused.work).toMatchObject({ state: 'FAILED', error: { code: 'BAD_USER_INPUT', field: 'badRowsMax' } });
    expect(refused.work.error?.message).toContain('line 3: 1 cells instead of 2');
  });

  it('what is wrong with a run is said with its place, at once or when it is laid', async () => {
    const rows = await dataset(CUSTOMERS);
    const model = await createModel();
    const refused = async (change: object) => {
      const query = call('createTrainingRun', 'CreateTrainingRunInput', 'trainingRun { id }');
      const { errors } = await client.send(query, { input: { ...CLASSIFIER, datasetId: rows.id, modelId: model.id, ...change } }, token);
      return [errors?.[0]?.extensions.code, errors?.[0]?.extensions.field];
    };
    expect(await refused({ targets: ['gone'] })).toEqual(['BAD_USER_INPUT', 'targets[0]']);
    expect(await refused({ features: ['left'] })).toEqual(['BAD_USER_INPUT', 'features[0]']);
    expect(await refused({ layers: [{ dense: { units: 0 } }] })).toEqual(['BAD_USER_INPUT', 'layers[0].dense.units']);
    expect(await refused({ optimizer: { adam: { learningRate: 0 } } })).toEqual(['BAD_USER_INPUT', 'optimizer.adam.learningRate']);
    expect(await refused({ loss: 'MEAN_SQUARED_ERROR' })).toEqual(['BAD_USER_INPUT', 'loss']);
    expect(await refused({ memoryLimitMib: 1 })).toEqual(['BAD_USER_INPUT', 'memoryLimitMib']);
    const laid = async (change: object) =>
      (await ended<Run>(await startRun({ ...CLASSIFIER, datasetId: rows.id, modelId: model.id, ...change }), RUN)).work;
    expect(await laid({ layers: [{ dense: { units: 3, activation: 'SOFTMAX' } }] })).toMatchObject({
      state: 'FAILED',
      error: { field: 'layers' },
    });
    expect(await laid({ layers: [{ conv2d: { filters: 1, kernel: 3 } }] })).toMatchObject({ error: { field: 'layers[0]' } });
    expect(await laid({ preprocessing: [{ standardise: { columns: ['plan'] } }] })).toMatchObject({ error: { field: 'preprocessing[0]' } });
  });

  it('a run ends at its limits of time and memory, and when it is cancelled', async () => {
    const rows = await dataset(CUSTOMERS);
    const model = await createModel();
    const base = { ...CLASSIFIER, datasetId: rows.id, modelId: model.id, epochs: 10_000 };
    const late = await ended<Run>(await startRun({ ...base, timeLimitMs: 4_000 }), RUN);
    expect(late.work).toMatchObject({ state: 'FAILED', error: { code: 'DEADLINE_EXCEEDED' } });
    const wide = {
      ...base,
      layers: [{ dense: { units: 16_384 } }, { dense: { units: 16_384 } }, { dense: { units: 2, activation: 'SOFTMAX' } }],
    };
    const large = await ended<Run>(await startRun({ ...wide, memoryLimitMib: 64 }), RUN);
    expect(large.work).toMatchObject({ state: 'FAILED', error: { code: 'BAD_USER_INPUT', field: 'memoryLimitMib' } });
    const id = await startRun(base);
    await epochsReached(id, 3);
    const { cancelTrainingRun } = await client.ask<{ cancelTrainingRun: { trainingRun: Run } }>(
      call('cancelTrainingRun', 'CancelTrainingRunInput', `trainingRun { ${WORK} }`),
      { input: { id } },
      token,
    );
    expect(cancelTrainingRun.trainingRun.work.state).toBe('CANCELLED');
    const cancelled = await ended<Run>(id, RUN);
    expect([cancelled.work.state, cancelled.modelVersion]).toEqual(['CANCELLED', null]);
    expect(cancelled.epochs.length).toBeGreaterThanOrEqual(3);
    // The next run is not kept waiting by the one that was cancelled.
    expect((await ended<Run>(await startRun({ ...base, epochs: 1 }), RUN)).work.state).toBe('SUCCEEDED');
  });

  it('a rule promotes what a run made where it is better, and keeps what is as good', async () => {
    const rows = await dataset(CUSTOMERS);
    const model = await createModel();
    const rule = { modelId: model.id, optimizations: ['FP16'], rule: { maxAccuracyDrop: 0.05, minSpeedup: 0 } };
    await client.ask(call('createDeploymentRule', 'CreateDeploymentRuleInput', 'deploymentRule { id }'), { input: rule }, token);
    const layers = [{ dense: { units: 64, activation: 'RELU' } }, { dense: { units: 2, activation: 'SOFTMAX' } }];
    const deployed = async (epochs: number) => {
      const id = await startRun({ ...CLASSIFIER, layers, datasetId: rows.id, modelId: model.id, epochs });
      await ended<Run>(id, RUN);
      return vi.waitFor(
        async () => {
          const { node } = await client.ask<{ node: Run }>(`query ($id: ID!) { node(id: $id) { ${RUN} } }`, { id }, token);
          expect(node.deployments[0]?.work.state).toBe('SUCCEEDED');
          return node.deployments[0];
        },
        { timeout: 60_000, interval: 100 },
      );
    };
    const first = await deployed(15);
    expect(first).toMatchObject({ alias: 'live', optimizations: [{ kind: 'FP16', report: { promotable: true } }] });
    expect(first?.promoted).not.toBeNull();
    const second = await deployed(16);
    expect(second?.promoted).toBeNull();
    expect(second?.reasons.at(-1)).toContain('as good');
  });
});

async function epochsReached(id: string, count: number): Promise<number> {
  return vi.waitFor(
    async () => {
      const { node } = await client.ask<{ node: Run }>(`query ($id: ID!) { node(id: $id) { ${RUN} } }`, { id }, token);
      expect(node.epochs.length).toBeGreaterThanOrEqual(count);
      return node.epochs.length;
    },
    { timeout: 60_000, interval: 20 },
  );
}

const LONG = { ...CLASSIFIER, epochs: 60, batchRows: 2, validationShare: 0.2 };

describe('a run whose server is killed', () => {
  let whole: Run | null = null;
  async function leftAlone(): Promise<Run> {
    whole ??= await ended<Run>(
      await startRun({ ...LONG, datasetId: (await dataset(CUSTOMERS)).id, modelId: (await createModel()).id }),
      RUN,
    );
    return whole;
  }

  it.each(['SIGKILL', 'SIGTERM'] as const)(
    'by %s in its middle ends with the same weights as one left alone',
    { timeout: 120_000 },
    async (signal) => {
      const alone = await leftAlone();
      const id = await startRun({ ...LONG, datasetId: (await dataset(CUSTOMERS)).id, modelId: (await createModel()).id });
      const reached = await epochsReached(id, 2);
      expect(reached).toBeLessThan(LONG.epochs);
      await server.kill(signal);
      client[Symbol.dispose]();
      server = await market.start();
      client = new Client(server.url);
      const resumed = await ended<Run>(id, RUN);
      expect(resumed.work).toMatchObject({ state: 'SUCCEEDED', error: null });
      expect(resumed.modelVersion?.sha256).toBe(alone.modelVersion?.sha256);
      expect(resumed.epochs.map(({ epoch, loss }) => [epoch, loss])).toEqual(alone.epochs.map(({ epoch, loss }) => [epoch, loss]));
    },
  );
});
