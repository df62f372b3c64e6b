import { DATATYPES, type OnnxNode, type OnnxTensor, tensor } from '../../inference/onnx/onnx.ts';
import { dimsOf, numbersOf } from './numbers.ts';
import { nothingToDo, Workpiece } from './workpiece.ts';

const ELEMENTS_MIN = 64;
const LARGEST = 65_504;
const KIND = 'FP16';

/**
 * FP32 weights stored as FP16, with a Cast that ONNX Runtime folds at load: half the file, the speed and, but for the rounding of the
 * weights, the answers of the source. CPUs compute no faster in FP16, so activations stay FP32. Weights with a number beyond 65,504 stay
 * as they are, and a note says which. Errors: BAD_USER_INPUT where no FP32 weights are stored.
 */
export function fp16(source: Uint8Array): { bytes: Uint8Array; notes: string[] } {
  const piece = new Workpiece(source);
  const casts: OnnxNode[] = [];
  const halved = new Set<string>();
  const large: string[] = [];
  for (const [name, constant] of piece.constants) {
    const values = constant.dataType === DATATYPES.FP32 ? numbersOf(constant) : null;
    if (values === null || values.length < ELEMENTS_MIN) continue;
    if (values.some((value) => Number.isFinite(value) && Math.abs(value) > LARGEST)) large.push(name);
    else {
      const half = piece.keep(halfOf(piece.name('/half'), constant, values));
      piece.op(casts, 'Cast', [half], { to: DATATYPES.FP32 }, name);
      halved.add(name);
    }
  }
  if (halved.size === 0) throw nothingToDo(piece, KIND, 'layer');
  const nodes = piece.graph.node.filter((one) => one.opType !== 'Constant' || !one.output.some((name) => halved.has(name)));
  const notes = [`${halved.size} weights are stored as FP16.`];
  if (large.length > 0)
    notes.push(
      `These hold numbers beyond ${LARGEST} and stay FP32: ${large
        .slice(0, 5)
        .map((name) => JSON.stringify(name))
        .join(', ')}.`,
    );
  return { bytes: piece.finish([...casts, ...nodes], halved), notes };
}

function halfOf(name: string, constant: OnnxTensor, values: Float64Array): OnnxTensor {
  return tensor(name, 'FP16', dimsOf(constant), Float16Array.from(values));
}
