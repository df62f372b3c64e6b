import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { encodeBytes, type Tensor } from '../../src/inference/inference.ts';
import { datatypeOf, storageOf } from '../../src/inference/onnx/datatypes.ts';
import { decodeModel, type OnnxModel, type OnnxTensor, type OnnxValue } from '../../src/inference/onnx/onnx.ts';

/** One of ONNX's backend test cases: a model, and what it must give. */
export type Case = { name: string; folder: string; model: Uint8Array; inputs: Uint8Array[]; outputs: Uint8Array[] };

/** Unpacks the archive into a folder of its own and names the cases. */
export async function openCases(archive: string) {
  const folder = await mkdtemp(join(tmpdir(), 'mercato-cases-'));
  await promisify(execFile)('tar', ['-xzf', archive, '-C', folder]);
  const names: string[] = [];
  for (const kind of await readdir(folder)) for (const name of await readdir(join(folder, kind))) names.push(join(kind, name));
  return {
    names: names.sort(),
    read: (name: string) => readCase(folder, name),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  };
}

async function readCase(folder: string, name: string): Promise<Case> {
  const set = join(folder, name, 'test_data_set_0');
  const files = (await readdir(set)).filter((file) => file.endsWith('.pb'));
  const all = (kind: string) => {
    const ofKind = files.filter((file) => file.startsWith(kind));
    const number = (file: string) => Number(/\d+/.exec(file)?.[0]);
    return Promise.all(ofKind.toSorted((a, b) => number(a) - number(b)).map((file) => readFile(join(set, file))));
  };
  return {
    name,
    folder: join(folder, name),
    model: await readFile(join(folder, name, 'model.onnx')),
    inputs: await all('input'),
    outputs: await all('output'),
  };
}

/** Why a case cannot be asked at Mercato's door, or null: its inputs and outputs are tensors of the contract's datatypes, and there are inputs. */
export function outside({ model, inputs }: Case): string | null {
  const graph = readModel(model).graph;
  const values = [...(graph?.input ?? []), ...(graph?.output ?? [])];
  if (values.some((value) => !isTensor(value))) return 'an input or output is a sequence, a map or optional';
  if (values.some((value) => datatypeOf(value.type?.tensorType?.elemType ?? 0) === null)) return 'a datatype outside the contract';
  if (inputs.length === 0) return 'no input';
  // Its third input says that it trains: what it drops is drawn anew each time.
  const isRandom = graph?.node.some(({ opType, input }) => opType === 'Dropout' && input.length === 3);
  return isRandom ? 'random by its definition' : null;
}

/** What ONNX Runtime itself answers, in a process of its own: base64 by name; null where it fails. */
export async function aloneOf(one: Case): Promise<Map<string, string> | null> {
  const { inputs } = namesOf(one);
  const files = one.inputs.map((_, index) => `${inputs[index]}=${join(one.folder, 'test_data_set_0', `input_${index}.pb`)}`);
  const alone = fileURLToPath(new URL('./alone.ts', import.meta.url));
  const args = ['--disable-warning=ExperimentalWarning', alone, join(one.folder, 'model.onnx'), ...files];
  const ran = await promisify(execFile)(process.execPath, args).catch(() => null);
  return ran && new Map(JSON.parse(ran.stdout) as [string, string][]);
}

const isTensor = (value: OnnxValue) => value.type?.tensorType !== undefined;

function readModel(bytes: Uint8Array): OnnxModel {
  return decodeModel(bytes);
}

/** The names of the inputs that a caller gives, and of the outputs, in order. */
export function namesOf({ model }: Case): { inputs: string[]; outputs: string[] } {
  const graph = readModel(model).graph;
  const constant = new Set((graph?.initializer ?? []).map(({ name }) => name));
  const names = (values: readonly OnnxValue[]) => values.map(({ name }) => name ?? '');
  return { inputs: names(graph?.input ?? []).filter((name) => !constant.has(name)), outputs: names(graph?.output ?? []) };
}

/** A file of one TensorProto. */
export function readTensor(file: Uint8Array, name: string): Tensor {
  // Mercato reads whole models: the tensor becomes the only constant of an empty graph.
  const graph = field(5, file);
  const [tensor] = readModel(field(7, graph)).graph?.initializer ?? [];
  const datatype = datatypeOf(tensor?.dataType ?? 0);
  if (tensor === undefined || datatype === null) throw new Error(`${name} is no tensor of the contract`);
  return { name, datatype, shape: tensor.dims.map(Number), data: bytesOf(tensor) };
}

function field(id: number, bytes: Uint8Array): Uint8Array {
  const head = [(id << 3) | 2];
  for (let rest = bytes.length; ; rest >>>= 7) {
    head.push(rest < 0x80 ? rest : (rest & 0x7f) | 0x80);
    if (rest < 0x80) break;
  }
  return Buffer.concat([Buffer.from(head), bytes]);
}

function bytesOf(tensor: OnnxTensor): Uint8Array {
  if (tensor.rawData !== undefined) return tensor.rawData;
  const storage = storageOf(tensor.dataType ?? 0);
  if (storage === null) throw new Error(`element type ${tensor.dataType}`);
  const chunks = tensor[storage.field];
  if (storage.field === 'stringData') return encodeBytes(chunks.map((chunk) => Buffer.from(chunk).toString('utf8')));
  if (storage.field === 'floatData' || storage.field === 'doubleData') return Buffer.concat(chunks);
  const size = (storage.bits ?? 0) / 8;
  const values = chunks.flatMap(varints);
  const bytes = Buffer.alloc(values.length * size);
  values.forEach((value, index) => {
    let rest = BigInt.asUintN(size * 8, value);
    for (let byte = 0; byte < size; byte++, rest >>= 8n) bytes[index * size + byte] = Number(rest & 0xffn);
  });
  return bytes;
}

function varints(bytes: Uint8Array): bigint[] {
  const values: bigint[] = [];
  let value = 0n;
  let shift = 0n;
  for (const byte of bytes) {
    value |= BigInt(byte & 0x7f) << shift;
    shift += 7n;
    if (byte >= 0x80) continue;
    values.push(value);
    [value, shift] = [0n, 0n];
  }
  return values;
}
