const CONTEXTS = ['tenancy', 'access', 'catalog', 'usage', 'billing', 'inference', 'prediction', 'training'];
/** Who may come through whose door; `base` is open to all. */
const DOORS = {
  tenancy: [],
  access: ['tenancy'],
  catalog: ['access', 'inference'],
  usage: [],
  billing: ['usage'],
  inference: [],
  prediction: ['access', 'catalog', 'usage', 'billing', 'inference'],
  training: ['catalog', 'inference'],
};
/** Parts of training/ that load ONNX Runtime. */
const RUNTIME = ['^src/training/(net/net|data/data|optimise/optimise|performances)\\.ts$'];
const door = (name) => `^src/${name}/${name}\\.ts$`;

const contextRules = CONTEXTS.map((name) => ({
  name: `${name}-imports`,
  comment: `${name}/ reaches base and the doors of: ${DOORS[name].join(', ') || 'nobody'}`,
  severity: 'error',
  from: { path: `^src/${name}/`, pathNot: [`^src/${name}/resolvers\\.ts$`] },
  to: {
    path: '^src/',
    pathNot: [
      `^src/${name}/`,
      '^src/base/',
      '^src/generated/',
      ...DOORS[name].map(door),
      ...(name === 'training' ? ['^src/inference/onnx/onnx\\.ts$'] : []),
    ],
  },
}));

module.exports = {
  forbidden: [
    { name: 'no-circles', severity: 'error', from: {}, to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } } },
    ...contextRules,
    {
      name: 'resolvers-imports',
      comment: 'resolvers are shape only: their own door, access to authorize, base',
      severity: 'error',
      from: { path: '^src/([^/]+)/resolvers\\.ts$' },
      to: { path: '^src/', pathNot: ['^src/$1/$1\\.ts$', door('access'), '^src/base/', '^src/generated/'] },
    },
    {
      name: 'door-only',
      comment: 'graphql, http and the composition reach a context through its door or its resolvers',
      severity: 'error',
      from: { path: '^src/(graphql|http|app\\.ts|main\\.ts|config\\.ts|commands)' },
      to: {
        path: `^src/(${CONTEXTS.join('|')})/`,
        pathNot: [...CONTEXTS.map(door), '^src/[^/]+/resolvers\\.ts$', '^src/inference/onnx/onnx\\.ts$', ...RUNTIME],
      },
    },
    {
      name: 'graphql-through-doors',
      severity: 'error',
      from: { path: '^src/(http|app\\.ts)' },
      to: { path: '^src/graphql/', pathNot: door('graphql') },
    },
    {
      name: 'base-knows-nobody',
      severity: 'error',
      from: { path: '^src/base/' },
      to: { path: '^src/', pathNot: ['^src/base/', '^src/generated/prisma/'] },
    },
    {
      name: 'onnx-knows-nobody',
      severity: 'error',
      from: { path: '^src/inference/onnx/' },
      to: { path: '^src/', pathNot: ['^src/inference/onnx/', '^src/base/'] },
    },
    {
      name: 'training-apart',
      comment: 'what loads ONNX Runtime is for worker processes and commands: the server knows its types alone',
      severity: 'error',
      from: {
        path: '^src/',
        pathNot: ['^src/training/(net|data|optimise)/', '^src/training/(performances|worker)\\.ts$', '^src/commands/'],
      },
      to: { path: RUNTIME, dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'training-parts',
      comment: 'net, data and optimise are reached by their doors, and know nothing of datasets, runs and jobs',
      severity: 'error',
      from: { path: '^src/training/(net|data|optimise)/' },
      to: { path: '^src/training/', pathNot: ['^src/training/$1/', '^src/training/net/net\\.ts$'] },
    },
    {
      name: 'onnxruntime-in-runners',
      severity: 'error',
      from: { path: '^src/', pathNot: ['^src/inference/', '^src/training/'] },
      to: { path: 'onnxruntime-node' },
    },
    {
      name: 'one-reader-of-env',
      severity: 'error',
      from: { path: '^src/(?!main\\.ts|processes\\.ts|app\\.ts|http/|commands/|config\\.ts)' },
      to: { path: '^src/config\\.ts$' },
    },
    { name: 'no-tests', severity: 'error', from: { path: '^src/' }, to: { path: '^(test|dashboard)/' } },
    {
      name: 'no-orphans',
      severity: 'error',
      from: { orphan: true, path: '^src/', pathNot: ['^src/generated/', '^src/commands/'] },
      to: {},
    },
  ],
  options: {
    doNotFollow: { path: ['node_modules', '^src/generated'] },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'require', 'node', 'default', 'types'] },
  },
};
