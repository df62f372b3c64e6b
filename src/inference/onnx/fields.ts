import { WIRE } from './protobuf.ts';
import type {
  OnnxAnnotation,
  OnnxAttribute,
  OnnxDimension,
  OnnxEntry,
  OnnxFunction,
  OnnxGraph,
  OnnxModel,
  OnnxNode,
  OnnxOpset,
  OnnxShape,
  OnnxSparseTensor,
  OnnxTensor,
  OnnxTensorType,
  OnnxType,
  OnnxValue,
} from './schema.ts';

/** `packed…`: elements that stay wire bytes. What the reader and the writer share is this table; neither knows a message by name. */
export type Scalar = 'int32' | 'int64' | 'float' | 'string' | 'bytes' | 'packed32' | 'packed64' | 'packedVarint';
type Kind = Scalar | (() => Message);
/** `bit`: its own in the message; `wire`: of one value; `packable`: several may come as bytes. */
export type Field = {
  readonly key: string;
  readonly bit: number;
  readonly id: number;
  readonly kind: Kind;
  readonly wire: number;
  readonly packable: boolean;
  readonly many: boolean;
  readonly set: (message: Record<string, unknown>, value: unknown) => void;
};
/** Messages that are bounded by themselves. */
export const COUNTED = ['nodes', 'tensors', 'attributes', 'functions'] as const;
type Counted = (typeof COUNTED)[number];
export type Message = {
  readonly fields: readonly Field[];
  readonly byId: readonly (Field | undefined)[];
  /** The message without a field: its lists, which are one and empty, all else undefined. */
  readonly blank: () => Record<string, unknown>;
  /** What it counts against, as an index of COUNTED; null: nothing. */
  readonly counted: number | null;
};

type Entry = readonly [id: number, kind: Kind, many?: 'many'];
/** Each key of the type has an entry, and lists, and only they, say `many`. */
type Table<T> = {
  readonly [K in keyof T]-?: NonNullable<T[K]> extends readonly unknown[]
    ? readonly [id: number, kind: Kind, many: 'many']
    : readonly [id: number, kind: Kind];
};

export const NONE: readonly never[] = Object.freeze([]);

function message<T>(table: Table<T>, counted: Counted | null = null): Message {
  const byId: (Field | undefined)[] = [];
  const fields = Object.entries<Entry>(table).map(([key, [id, kind, many]], index): Field => {
    const wire = wireOf(kind);
    return { key, bit: 1 << index, id, kind, wire, packable: wire !== WIRE.bytes, many: many !== undefined, set: setterOf(key) };
  });
  for (const field of fields) byId[field.id] = field;
  return { fields, byId, blank: blankOf(fields), counted: counted && COUNTED.indexOf(counted) };
}

/**
 * A plain object with all keys, made of the table above: objects of one shape, without a copy of their properties. A constructor and not a literal, which V8
 * would make in its old space once it saw that most of a model stays: slower to fill there, and kept until a full collection with all that they hold.
 */
function blankOf(fields: readonly Field[]): () => Record<string, unknown> {
  const body = fields.map(({ key, many }) => `this.${key} = ${many ? 'NONE' : 'undefined'};`).join(' ');
  return new Function('NONE', `function Blank() { ${body} } Blank.prototype = Object.prototype; return () => new Blank();`)(NONE);
}

/** A store that knows its key and so the shape that it meets: by a key of many it would be looked up each time. */
function setterOf(key: string): Field['set'] {
  return new Function('message', 'value', `message.${key} = value;`) as Field['set'];
}

function wireOf(kind: Kind): number {
  if (typeof kind !== 'string' || kind === 'string' || kind === 'bytes') return WIRE.bytes;
  if (kind === 'float' || kind === 'packed32') return WIRE.fixed32;
  return kind === 'packed64' ? WIRE.fixed64 : WIRE.varint;
}

const ENTRY = message<OnnxEntry>({ key: [1, 'string'], value: [2, 'string'] });
const entries = () => ENTRY;

const OPSET = message<OnnxOpset>({ domain: [1, 'string'], version: [2, 'int64'] });

const TENSOR = message<OnnxTensor>(
  {
    dims: [1, 'int64', 'many'],
    dataType: [2, 'int32'],
    segment: [3, 'bytes'],
    floatData: [4, 'packed32', 'many'],
    int32Data: [5, 'packedVarint', 'many'],
    stringData: [6, 'bytes', 'many'],
    int64Data: [7, 'packedVarint', 'many'],
    name: [8, 'string'],
    rawData: [9, 'bytes'],
    doubleData: [10, 'packed64', 'many'],
    uint64Data: [11, 'packedVarint', 'many'],
    docString: [12, 'string'],
    externalData: [13, entries, 'many'],
    dataLocation: [14, 'int32'],
    metadataProps: [16, entries, 'many'],
  },
  'tensors',
);
const tensors = () => TENSOR;

const SPARSE = message<OnnxSparseTensor>({ values: [1, tensors], indices: [2, tensors], dims: [3, 'int64', 'many'] });
const sparse = () => SPARSE;

const DIMENSION = message<OnnxDimension>({ dimValue: [1, 'int64'], dimParam: [2, 'string'], denotation: [3, 'string'] });
const SHAPE = message<OnnxShape>({ dim: [1, () => DIMENSION, 'many'] });
const TENSOR_TYPE = message<OnnxTensorType>({ elemType: [1, 'int32'], shape: [2, () => SHAPE] });
const TYPE = message<OnnxType>({
  tensorType: [1, () => TENSOR_TYPE],
  sequenceType: [4, 'bytes'],
  mapType: [5, 'bytes'],
  denotation: [6, 'string'],
  opaqueType: [7, 'bytes'],
  sparseTensorType: [8, 'bytes'],
  optionalType: [9, 'bytes'],
});
const types = () => TYPE;

const VALUE = message<OnnxValue>({
  name: [1, 'string'],
  type: [2, types],
  docString: [3, 'string'],
  metadataProps: [4, entries, 'many'],
});
const values = () => VALUE;

const graphs = () => GRAPH;

const ATTRIBUTE = message<OnnxAttribute>(
  {
    name: [1, 'string'],
    f: [2, 'float'],
    i: [3, 'int64'],
    s: [4, 'bytes'],
    t: [5, tensors],
    g: [6, graphs],
    floats: [7, 'float', 'many'],
    ints: [8, 'int64', 'many'],
    strings: [9, 'bytes', 'many'],
    tensors: [10, tensors, 'many'],
    graphs: [11, graphs, 'many'],
    docString: [13, 'string'],
    tp: [14, types],
    typeProtos: [15, types, 'many'],
    type: [20, 'int32'],
    refAttrName: [21, 'string'],
    sparseTensor: [22, sparse],
    sparseTensors: [23, sparse, 'many'],
  },
  'attributes',
);

const NODE = message<OnnxNode>(
  {
    input: [1, 'string', 'many'],
    output: [2, 'string', 'many'],
    name: [3, 'string'],
    opType: [4, 'string'],
    attribute: [5, () => ATTRIBUTE, 'many'],
    docString: [6, 'string'],
    domain: [7, 'string'],
    overload: [8, 'string'],
    metadataProps: [9, entries, 'many'],
    deviceConfigurations: [10, 'bytes', 'many'],
  },
  'nodes',
);

const ANNOTATION = message<OnnxAnnotation>({ tensorName: [1, 'string'], quantParameterTensorNames: [2, entries, 'many'] });

const GRAPH: Message = message<OnnxGraph>({
  node: [1, () => NODE, 'many'],
  name: [2, 'string'],
  initializer: [5, tensors, 'many'],
  docString: [10, 'string'],
  input: [11, values, 'many'],
  output: [12, values, 'many'],
  valueInfo: [13, values, 'many'],
  quantizationAnnotation: [14, () => ANNOTATION, 'many'],
  sparseInitializer: [15, sparse, 'many'],
  metadataProps: [16, entries, 'many'],
});

const FUNCTION = message<OnnxFunction>(
  {
    name: [1, 'string'],
    input: [4, 'string', 'many'],
    output: [5, 'string', 'many'],
    attribute: [6, 'string', 'many'],
    node: [7, () => NODE, 'many'],
    docString: [8, 'string'],
    opsetImport: [9, () => OPSET, 'many'],
    domain: [10, 'string'],
    attributeProto: [11, () => ATTRIBUTE, 'many'],
    valueInfo: [12, values, 'many'],
    overload: [13, 'string'],
    metadataProps: [14, entries, 'many'],
  },
  'functions',
);

export const MODEL = message<OnnxModel>({
  irVersion: [1, 'int64'],
  producerName: [2, 'string'],
  producerVersion: [3, 'string'],
  domain: [4, 'string'],
  modelVersion: [5, 'int64'],
  docString: [6, 'string'],
  graph: [7, graphs],
  opsetImport: [8, () => OPSET, 'many'],
  metadataProps: [14, entries, 'many'],
  trainingInfo: [20, 'bytes', 'many'],
  functions: [25, () => FUNCTION, 'many'],
  configuration: [26, 'bytes', 'many'],
});
