import { parentPort } from 'node:worker_threads';
import type * as Ort from 'onnxruntime-node';
import { type Datatype, decodeBytes, elementCount, encodeBytes, type Signature, type SignatureTensor, type Tensor } from './tensor.ts';

/** Orders to the session thread: one load, then runs, one after another. `batch` comes back in the answer. */
export type SessionOrder =
  | { kind: 'load'; model: Uint8Array; threads: number; device: string }
  | { kind: 'run'; batch: number; inputs: readonly Tensor[]; outputs: readonly string[] | null };

/** What is known of a model once it is loaded. `partlyOnCpu`: its device has no kernel for some of its operators, which run on the CPU. */
export type LoadedModel = { signature: Signature; partlyOnCpu: boolean };

/** `runMs`: the run alone, without the hops between threads. */
export type SessionAnswer =
  | { kind: 'ready' }
  | { kind: 'loaded'; loaded: LoadedModel }
  | { kind: 'ran'; batch: number; outputs: Tensor[]; runMs: number }
  | { kind: 'failed'; batch: number | null; message: string };

/** Outputs of one run. A graph of a few bytes can ask for any amount. */
const OUTPUT_BYTES_MAX = 512 * 1024 * 1024;

// The binding takes FP16 as Uint16Array only, while onnxruntime-common turns that into Float16Array wherever the class exists.
Reflect.deleteProperty(globalThis, 'Float16Array');
const ort = await import('onnxruntime-node');
// A model can make ONNX Runtime complain on every run; what matters of that arrives as an exception.
ort.env.logLevel = 'fatal';

const ORT_TYPES: Record<Datatype, Ort.Tensor.Type> = {
  BOOL: 'bool',
  UINT8: 'uint8',
  UINT16: 'uint16',
  UINT32: 'uint32',
  UINT64: 'uint64',
  INT8: 'int8',
  INT16: 'int16',
  INT32: 'int32',
  INT64: 'int64',
  FP16: 'float16',
  FP32: 'float32',
  FP64: 'float64',
  BYTES: 'string',
};
const DATATYPE_OF = new Map<string, Datatype>(Object.entries(ORT_TYPES).map(([datatype, type]) => [type, datatype as Datatype]));

const VIEWS = {
  BOOL: Uint8Array,
  UINT8: Uint8Array,
  UINT16: Uint16Array,
  UINT32: Uint32Array,
  UINT64: BigUint64Array,
  INT8: Int8Array,
  INT16: Int16Array,
  INT32: Int32Array,
  INT64: BigInt64Array,
  FP16: Uint16Array,
  FP32: Float32Array,
  FP64: Float64Array,
} as const;

/** Of the runtime's words where a device has no kernel for an operator; what else fails the first time is no sign of that. */
const CPU_NEEDED = 'fallback to CPU EP has been explicitly disabled';

let session: Ort.InferenceSession | null = null;

/** `cuda:1` is ONNX Runtime's provider `cuda` on device 1. */
function providerOf(device: string): Ort.InferenceSession.ExecutionProviderConfig {
  const [name = '', number] = device.split(':');
  return number === undefined ? name : { name: 'cuda', deviceId: Number(number) };
}

/**
 * The arena is off: it would keep the memory of the largest batch ever seen, and costs nothing measurable to do without (MLP 784-128-10,
 * SqueezeNet and ResNet-50 within noise, measured on 2 cores, Nov 2026). Spinning is off because many runners share the cores.
 */
async function load({ model, threads, device }: SessionOrder & { kind: 'load' }): Promise<LoadedModel> {
  const create = (disableCpuFallback: boolean) =>
    ort.InferenceSession.create(model, {
      executionProviders: [providerOf(device)],
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
      enableCpuMemArena: false,
      logSeverityLevel: 4,
      extra: { session: { intra_op: { allow_spinning: '0' }, disable_cpu_ep_fallback: disableCpuFallback ? '1' : '0' } },
    });
  // The runtime has no other way to tell: a session that is refused without the CPU, and made with it, has operators there.
  let partlyOnCpu = false;
  const whole =
    device === 'cpu'
      ? null
      : create(true).catch((error: Error) => {
          partlyOnCpu = error.message.includes(CPU_NEEDED);
          return null;
        });
  session = (await whole) ?? (await create(false));
  const inputs = session.inputMetadata.map(describe);
  const outputs = session.outputMetadata.map(describe);
  const signature = { inputs, outputs, batchDimension: batchDimension([...inputs, ...outputs]) };
  return { signature, partlyOnCpu };
}

function describe(metadata: Ort.InferenceSession.ValueMetadata): SignatureTensor {
  const datatype = metadata.isTensor ? DATATYPE_OF.get(metadata.type) : undefined;
  if (!metadata.isTensor || datatype === undefined) throw new Error(`"${metadata.name}" is not a tensor of a supported datatype.`);
  const shape = metadata.shape.map((size) => (typeof size === 'number' ? size : -1));
  const dimensions = metadata.shape.map((size) => (typeof size === 'string' && size !== '' ? size : null));
  return { name: metadata.name, datatype, shape, dimensions };
}

function batchDimension(tensors: readonly SignatureTensor[]): string | null {
  const leading = tensors[0]?.dimensions[0] ?? null;
  return tensors.every((tensor) => tensor.dimensions[0] === leading) ? leading : null;
}

async function run({ batch, inputs, outputs }: SessionOrder & { kind: 'run' }): Promise<SessionAnswer> {
  if (session === null) throw new Error('No model is loaded.');
  const feeds: Record<string, Ort.Tensor> = Object.create(null);
  for (const input of inputs) feeds[input.name] = toOrt(input);
  const names = outputs ?? session.outputNames;
  const startedMs = performance.now();
  const fetched = await session.run(feeds, [...names]);
  const runMs = performance.now() - startedMs;
  let size = 0;
  const tensors = names.map((name) => {
    const tensor = fromOrt(name, fetched[name]);
    size += tensor.data.length;
    if (size > OUTPUT_BYTES_MAX) throw new Error(`The outputs are larger than ${OUTPUT_BYTES_MAX} bytes.`);
    return tensor;
  });
  return { kind: 'ran', batch, outputs: tensors, runMs };
}

function toOrt({ name, datatype, shape, data }: Tensor): Ort.Tensor {
  const count = elementCount(shape);
  if (datatype === 'BYTES') {
    const texts = decodeBytes(data, count);
    // The binding hands strings over as C strings: the rest after a NUL would be lost without an error.
    if (texts.some((text) => text.includes('\0'))) throw new Error(`Input "${name}" has text with a NUL character.`);
    return new ort.Tensor('string', texts, shape);
  }
  const View = VIEWS[datatype];
  const buffer = data.byteOffset % View.BYTES_PER_ELEMENT === 0 ? data : data.slice();
  const elements = new View(buffer.buffer as ArrayBuffer, buffer.byteOffset, count);
  // In native code a bool other than 0 and 1 is undefined behaviour.
  if (datatype === 'BOOL') for (let index = 0; index < count; index++) if (elements[index] !== 0) elements[index] = 1;
  return new ort.Tensor(ORT_TYPES[datatype], elements, shape);
}

function fromOrt(name: string, value: Ort.Tensor | undefined): Tensor {
  const datatype = value === undefined ? undefined : DATATYPE_OF.get(value.type);
  if (value === undefined || datatype === undefined) throw new Error(`Output "${name}" is of an unsupported datatype.`);
  const { data } = value;
  if (Array.isArray(data)) return { name, datatype, shape: value.dims, data: encodeBytes(data) };
  const { buffer, byteOffset, byteLength } = data as Uint8Array;
  return { name, datatype, shape: value.dims, data: new Uint8Array(buffer, byteOffset, byteLength) };
}

function answer(message: SessionAnswer): void {
  const buffers = message.kind === 'ran' ? message.outputs.map((output) => output.data.buffer as ArrayBuffer) : [];
  parentPort?.postMessage(message, [...new Set(buffers)]);
}

parentPort?.on('message', async (order: SessionOrder) => {
  try {
    answer(order.kind === 'load' ? { kind: 'loaded', loaded: await load(order) } : await run(order));
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    answer({ kind: 'failed', batch: order.kind === 'run' ? order.batch : null, message });
  }
});
answer({ kind: 'ready' });
