/** The door of `inference/onnx/`: reads, checks and writes ONNX files without a runtime. */
export { type AttributeValue, float, graph, model, node, tensor, value } from './build.ts';
export { checkModel, type Dimension } from './check.ts';
export { type Contents, contentsNow, estimateRun, type RunEstimate, readContents } from './contents.ts';
export { DATATYPES, type Datatype } from './datatypes.ts';
export { decodeModel } from './read.ts';
export { REJECTION_RULES, type RejectionRule } from './rejections.ts';
export { proveRows, type RowProof } from './row-wise.ts';
export type { OnnxGraph, OnnxModel, OnnxNode, OnnxTensor, OnnxValue } from './schema.ts';
export { encodeModel } from './write.ts';
