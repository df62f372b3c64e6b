import { checkModel, type Datatype, type Dimension } from '../inference/onnx/onnx.ts';

/** A tensor in the words of the Open Inference Protocol v2: −1 is a dimension that may vary; `dimensions` has its name, null without one. */
type SignatureTensor = { name: string; datatype: Datatype; shape: number[]; dimensions: (string | null)[] };

/** `batchDimension`: the name that leads every input and output, null where there is no such name. */
type Signature = { batchDimension: string | null; inputs: SignatureTensor[]; outputs: SignatureTensor[] };

/** The signature that an ONNX file declares. Errors: those of `checkModel`; RangeError for an output of undeclared rank. */
export function signatureOf(bytes: Uint8Array): Signature {
  const summary = checkModel(bytes);
  const inputs = summary.inputs.map((one) => describe(one.name, one.datatype, one.dimensions));
  const outputs = summary.outputs.map(({ name, datatype, dimensions }) => {
    if (dimensions === null) throw new RangeError(`output ${name} does not declare its rank`);
    return describe(name, datatype, dimensions);
  });
  const leading = new Set([...inputs, ...outputs].map((one) => one.dimensions[0] ?? null));
  const [batchDimension = null] = leading;
  return { batchDimension: leading.size === 1 ? batchDimension : null, inputs, outputs };
}

function describe(name: string, datatype: Datatype, dimensions: readonly Dimension[]): SignatureTensor {
  return {
    name,
    datatype,
    shape: dimensions.map((one) => (typeof one === 'number' ? one : -1)),
    dimensions: dimensions.map((one) => (typeof one === 'string' ? one : null)),
  };
}
