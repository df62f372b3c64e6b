/**
 * The messages of https://github.com/onnx/onnx/blob/v1.22.0/onnx/onnx.proto as types, with names in camelCase. A field that the file leaves
 * out is absent, a list empty. 64-bit integers are bigint; data of tensors stays bytes.
 */
export type OnnxModel = {
  irVersion?: bigint;
  producerName?: string;
  producerVersion?: string;
  domain?: string;
  modelVersion?: bigint;
  docString?: string;
  graph?: OnnxGraph;
  opsetImport: readonly OnnxOpset[];
  metadataProps: readonly OnnxEntry[];
  /** TrainingInfoProto, unread. */
  trainingInfo: readonly Uint8Array[];
  functions: readonly OnnxFunction[];
  /** DeviceConfigurationProto, unread. */
  configuration: readonly Uint8Array[];
};

export type OnnxOpset = { domain?: string; version?: bigint };
export type OnnxEntry = { key?: string; value?: string };

export type OnnxGraph = {
  node: readonly OnnxNode[];
  name?: string;
  initializer: readonly OnnxTensor[];
  docString?: string;
  input: readonly OnnxValue[];
  output: readonly OnnxValue[];
  valueInfo: readonly OnnxValue[];
  quantizationAnnotation: readonly OnnxAnnotation[];
  sparseInitializer: readonly OnnxSparseTensor[];
  metadataProps: readonly OnnxEntry[];
};

export type OnnxAnnotation = { tensorName?: string; quantParameterTensorNames: readonly OnnxEntry[] };

export type OnnxNode = {
  input: readonly string[];
  output: readonly string[];
  name?: string;
  opType?: string;
  attribute: readonly OnnxAttribute[];
  docString?: string;
  domain?: string;
  overload?: string;
  metadataProps: readonly OnnxEntry[];
  /** NodeDeviceConfigurationProto, unread. */
  deviceConfigurations: readonly Uint8Array[];
};

export type OnnxAttribute = {
  name?: string;
  f?: number;
  i?: bigint;
  s?: Uint8Array;
  t?: OnnxTensor;
  g?: OnnxGraph;
  floats: readonly number[];
  ints: readonly bigint[];
  strings: readonly Uint8Array[];
  tensors: readonly OnnxTensor[];
  graphs: readonly OnnxGraph[];
  docString?: string;
  tp?: OnnxType;
  typeProtos: readonly OnnxType[];
  /** `AttributeProto.AttributeType`. */
  type?: number;
  refAttrName?: string;
  sparseTensor?: OnnxSparseTensor;
  sparseTensors: readonly OnnxSparseTensor[];
};

/** Typed data is kept as its wire bytes, one view for each occurrence of the field: packed elements, or one element. */
export type OnnxTensor = {
  dims: readonly bigint[];
  /** `TensorProto.DataType`. */
  dataType?: number;
  /** Segment, unread. */
  segment?: Uint8Array;
  floatData: readonly Uint8Array[];
  int32Data: readonly Uint8Array[];
  stringData: readonly Uint8Array[];
  int64Data: readonly Uint8Array[];
  name?: string;
  rawData?: Uint8Array;
  doubleData: readonly Uint8Array[];
  uint64Data: readonly Uint8Array[];
  docString?: string;
  externalData: readonly OnnxEntry[];
  dataLocation?: number;
  metadataProps: readonly OnnxEntry[];
};

export type OnnxSparseTensor = { values?: OnnxTensor; indices?: OnnxTensor; dims: readonly bigint[] };

export type OnnxValue = { name?: string; type?: OnnxType; docString?: string; metadataProps: readonly OnnxEntry[] };

export type OnnxType = {
  tensorType?: OnnxTensorType;
  /** The types of values that are not tensors, unread. */
  sequenceType?: Uint8Array;
  mapType?: Uint8Array;
  denotation?: string;
  opaqueType?: Uint8Array;
  sparseTensorType?: Uint8Array;
  optionalType?: Uint8Array;
};

export type OnnxTensorType = { elemType?: number; shape?: OnnxShape };
export type OnnxShape = { dim: readonly OnnxDimension[] };
export type OnnxDimension = { dimValue?: bigint; dimParam?: string; denotation?: string };

export type OnnxFunction = {
  name?: string;
  input: readonly string[];
  output: readonly string[];
  attribute: readonly string[];
  node: readonly OnnxNode[];
  docString?: string;
  opsetImport: readonly OnnxOpset[];
  domain?: string;
  attributeProto: readonly OnnxAttribute[];
  valueInfo: readonly OnnxValue[];
  overload?: string;
  metadataProps: readonly OnnxEntry[];
};
