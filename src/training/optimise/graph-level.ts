import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InferenceSession } from 'onnxruntime-node';
import { MercatoError } from '../../base/errors.ts';
import { LIMITS } from '../../base/limits.ts';
import { decodeModel, encodeModel, type OnnxModel } from '../../inference/onnx/onnx.ts';
import { rejectedKind } from './refusals.ts';

/** Severity 3: errors only. */
const QUIET = 3;

/**
 * What ONNX Runtime makes of a graph at level `basic`: constants computed, what has no effect left out, layers joined. The level above
 * writes operators of ONNX Runtime alone, and the last one layouts of this very processor; `basic` stays in ONNX. Errors: MODEL_FAILED
 * where the runtime does not load the model; BAD_USER_INPUT where the result is larger than a model may be.
 */
export async function graphLevel(source: Uint8Array): Promise<{ bytes: Uint8Array; notes: string[] }> {
  const folder = await mkdtemp(join(tmpdir(), 'mercato-graph-'));
  try {
    const file = join(folder, 'model.onnx');
    await write(source, file);
    const { size } = await stat(file);
    if (size > LIMITS.modelBytesMax) {
      throw rejectedKind('GRAPH', `With its computed weights stored the model has ${size} bytes.`, `at most ${LIMITS.modelBytesMax} bytes`);
    }
    const before = decodeModel(source);
    const after = decodeModel(await readFile(file));
    const [had, has] = [before.graph?.node.length ?? 0, after.graph?.node.length ?? 0];
    return { bytes: encodeModel(withDoor(after, before)), notes: [`${had} operators became ${has}.`] };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function write(source: Uint8Array, file: string): Promise<void> {
  try {
    const session = await InferenceSession.create(source, {
      executionProviders: ['cpu'],
      graphOptimizationLevel: 'basic',
      optimizedModelFilePath: file,
      intraOpNumThreads: 1,
      interOpNumThreads: 1,
      logSeverityLevel: QUIET,
    });
    await session.release();
  } catch (error) {
    throw new MercatoError('MODEL_FAILED', `ONNX Runtime does not load the model: ${error instanceof Error ? error.message : 'unknown'}`);
  }
}

/** The source's inputs and outputs as it declares them, and its operator sets: the runtime lists all that it knows. */
function withDoor(after: OnnxModel, before: OnnxModel): OnnxModel {
  if (after.graph === undefined || before.graph === undefined) return after;
  const used = new Set(after.graph.node.map(({ domain = '' }) => (domain === 'ai.onnx' ? '' : domain)));
  const known = new Set(before.opsetImport.map(({ domain = '' }) => domain));
  const initialisers = new Set(after.graph.initializer.map(({ name }) => name));
  const constants = new Set(before.graph.initializer.map(({ name }) => name));
  return {
    ...after,
    opsetImport: after.opsetImport.filter(({ domain = '' }) => domain === '' || used.has(domain) || known.has(domain)),
    graph: {
      ...after.graph,
      input: before.graph.input.filter(({ name }) => !constants.has(name) || initialisers.has(name)),
      output: before.graph.output,
    },
  };
}
