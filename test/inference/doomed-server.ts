import { createLog } from '../../src/base/log.ts';
import { createFleet, createInference, type RunnableVersion } from '../../src/inference/inference.ts';
import { identityModel } from './tiny-models.ts';

/** A process with a loaded model in the data directory of its argument; it prints the ids of its runners and waits to be killed. */
const model = identityModel('FP32', ['N']);
const bounds = {
  spares: 0,
  maxLoaded: 1,
  memoryBytesMax: 2 ** 33,
  deviceMemoryBytesMax: 2 ** 33,
  keepAliveMs: 600_000,
  replicasMax: 1,
  devices: 'cpu',
  deviceEnvironment: {},
};
const fleet = createFleet({ dataDir: process.argv[2] ?? '', readModel: async () => model, ...bounds }, createLog('error'));
const inference = createInference(fleet);
const { signature } = await inference.inspect(identityModel('FP32', ['N']), { runLimitMs: 10_000, maxBatchRows: 1 });
const version: RunnableVersion = {
  id: 'version',
  owner: 'publisher',
  file: 'model',
  signature,
  joinable: true,
  shared: false,
  trusted: false,
  maxBatchRows: 1,
  runLimitMs: 10_000,
  threads: 1,
  passedOver: [],
  verifiedOn: null,
  measuredLimit: null,
  fixedRows: null,
  peakMemoryBytes: null,
  peakOnDevice: null,
};
const x = { name: 'x', datatype: 'FP32', shape: [1], data: new Uint8Array(4) } as const;
await inference.run({ version, tenantKey: '', priority: 0, inputs: [x], outputs: null, deadlineMs: 10_000 });
const { deployments } = await inference.status();
process.stdout.write(JSON.stringify(deployments.flatMap(({ replicas }) => replicas.map(({ pid }) => pid))));
