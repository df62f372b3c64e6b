import type { Fault } from './rejections.ts';

const words = (text: string): string[] => text.trim().split(/\s+/);

/** The operators that ONNX Runtime 1.30 knows, by domain and the version that brought them, in the words of its own refusals. */
const SINCE: Record<string, Record<number, string[]>> = {
  '': {
    1: words(`
      Abs Add Affine And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Concat Constant Conv ConvTranspose Crop
      DepthToSpace Div Dropout DynamicSlice Elu Equal Exp Flatten Floor GRU GRUUnit Gather Gemm GivenTensorFill GlobalAveragePool
      GlobalLpPool GlobalMaxPool Greater HardSigmoid Hardmax Identity If ImageScaler InstanceNormalization LRN LSTM
      LayerNormalization LeakyRelu Less Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool MaxRoiPool Mean
      MeanVarianceNormalization Min Mul Neg Not Or PRelu Pad ParametricSoftplus Pow RNN RandomNormal RandomNormalLike RandomUniform
      RandomUniformLike Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
      ReduceSum ReduceSumSquare Relu Reshape Scale ScaledTanh Selu Shape Sigmoid SimplifiedLayerNormalization Size Slice Softmax
      Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Xor`),
    7: words('Acos Asin Atan Cos Multinomial Sin Tan'),
    8: words('Expand Scan'),
    9: words(`
      Acosh Asinh Atanh Compress ConstantOfShape Cosh Erf EyeLike IsNaN MaxUnpool NonZero OneHot Scatter Shrink Sign Sinh
      TfIdfVectorizer Where`),
    10: words(`
      ConvInteger DequantizeLinear IsInf MatMulInteger Mod NonMaxSuppression QLinearConv QLinearMatMul QuantizeLinear Resize
      ReverseSequence RoiAlign StringNormalizer`),
    11: words(`
      BitShift ConcatFromSequence CumSum Det DynamicQuantizeLinear GatherElements GatherND Range Round ScatterElements ScatterND
      SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SplitToSequence Unique`),
    12: words('Celu Einsum GreaterOrEqual LessOrEqual NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss'),
    14: words('HardSwish Trilu'),
    15: words('Bernoulli CastLike Optional OptionalGetElement OptionalHasElement'),
    16: words('GridSample'),
    17: words('BlackmanWindow DFT HammingWindow HannWindow MelWeightMatrix STFT SequenceMap'),
    18: words('BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im GroupNormalization Mish'),
    19: words('DeformConv'),
    20: words('AffineGrid Gelu ImageDecoder RegexFullMatch StringConcat StringSplit'),
    23: words('Attention RMSNormalization RotaryEmbedding'),
    24: words('Swish TensorScatter'),
    26: words('BitCast CumProd'),
  },
  'ai.onnx.ml': {
    1: words(`
      ArrayFeatureExtractor Binarizer CastMap CategoryMapper DictVectorizer FeatureVectorizer Imputer LabelEncoder LinearClassifier
      LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsembleClassifier TreeEnsembleRegressor ZipMap`),
    5: words('TreeEnsemble'),
  },
  // Those that its CPU provider computes, less EPContext and Snpe, which read other files.
  'com.microsoft': {
    1: words(`
      Attention AttnLSTM BeamSearch BiasGelu BifurcationDetector CDist ConvTransposeWithDynamicPads CropAndResize
      DecoderMaskedMultiHeadAttention DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul DynamicTimeWarping
      EmbedLayerNormalization ExpandDims FastGelu FusedConv FusedGemm FusedMatMul GatherBlockQuantized GatherND Gelu GreedySearch
      GridSample GroupQueryAttention Inverse MatMulBnb4 MatMulFpQ4 MatMulInteger16 MatMulIntegerToFloat MatMulNBits MaxpoolWithMask
      MoE MultiHeadAttention MurmurHash3 NGramRepeatBlock NhwcFusedConv NhwcMaxPool Pad QAttention QEmbedLayerNormalization QGemm
      QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearSigmoid
      QLinearSoftmax QLinearWhere QMoE QuantizeLinear QuickGelu Range RotaryEmbedding Sampling SkipLayerNormalization
      SkipSimplifiedLayerNormalization SparseAttention SparseToDenseMatMul Tokenizer TransposeMatMul Trilu UnfoldTensor Unique
      WhisperBeamSearch WordConvEmbedding`),
  },
};

/** The last version of a domain that the runtime reads. */
const LAST: Record<string, number> = { '': 26, 'ai.onnx.ml': 5, 'com.microsoft': 1 };

/** The last version of operators that later ones dropped. */
const UNTIL: Record<string, Record<number, string[]>> = {
  '': {
    9: words('Affine Crop DynamicSlice GRUUnit GivenTensorFill ImageScaler ParametricSoftplus Scale ScaledTanh Upsample'),
    10: words('Scatter'),
  },
  'ai.onnx.ml': { 4: words('TreeEnsembleClassifier TreeEnsembleRegressor') },
};

type Range = { first: number; last: number };
const OPERATORS = new Map(Object.entries(SINCE).map(([domain, since]) => [domain, ranges(domain, since)] as const));

function ranges(domain: string, since: Record<number, string[]>): Map<string, Range> {
  const known = new Map<string, Range>();
  const last = LAST[domain] ?? 0;
  for (const [first, names] of Object.entries(since)) for (const name of names) known.set(name, { first: Number(first), last });
  for (const [until, names] of Object.entries(UNTIL[domain] ?? {})) {
    for (const name of names) known.set(name, { first: known.get(name)?.first ?? 1, last: Number(until) });
  }
  return known;
}

export function isKnownDomain(domain: string): boolean {
  return OPERATORS.has(domain);
}

export function isOperator(domain: string, name: string): boolean {
  return OPERATORS.get(domain)?.has(name) ?? false;
}

/** What speaks against a domain's operator set of this version, or null. A domain that is not known is none of ours. */
export function versionFault(domain: string, version: number): Fault | null {
  const last = LAST[domain];
  if (last === undefined || (version >= 1 && version <= last)) return null;
  const text = `Version ${version} of the operator set "${domain || 'ai.onnx'}" is not one of 1 to ${last}.`;
  return { rule: 'OPSET_UNSUPPORTED', text, limit: last, given: version };
}

/** What speaks against an operator of a known domain at a version of its set, or null. */
export function operatorFault(domain: string, name: string, version: number | undefined): Fault | null {
  const range = OPERATORS.get(domain)?.get(name);
  const full = domain === '' ? name : `${domain}.${name}`;
  if (range === undefined) return { rule: 'UNKNOWN_OPERATOR', text: `There is no operator ${full} that this service runs.` };
  if (version === undefined) {
    const text = `The model does not say which version of the operator set "${domain || 'ai.onnx'}" it means.`;
    return { rule: 'OPSET_UNDECLARED', text };
  }
  if (version >= range.first && version <= range.last) return null;
  const [verb, limit] = version < range.first ? ['came', range.first] : ['ended', range.last];
  const text = `The operator ${full} ${verb} with version ${limit} of its set, and the model names ${version}.`;
  return { rule: 'OPERATOR_VERSION', text, limit, given: version };
}
