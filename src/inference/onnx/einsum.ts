import { text } from './attributes.ts';
import { rejected } from './rejections.ts';
import type { OnnxModel, OnnxNode } from './schema.ts';
import { type Shapes, shapesOf } from './shapes.ts';
import { placeOf } from './walk.ts';

/**
 * Refuses an Einsum in the main graph whose inputs are not known to have as many dimensions as its equation says: given others in a run, ONNX Runtime
 * ends the whole process.
 */
export function checkEinsums(model: OnnxModel): void {
  let shapes: Shapes | null = null;
  for (const [index, node] of (model.graph?.node ?? []).entries()) {
    if (node.opType !== 'Einsum') continue;
    shapes ??= shapesOf(model, () => null);
    const fault = einsumFault(node, shapes);
    if (fault !== null) throw rejected('EINSUM', fault, placeOf(node, index));
  }
}

function einsumFault(node: OnnxNode, shapes: Shapes): string | null {
  const [left = ''] = text(node, 'equation', '').replaceAll(/\s/g, '').split('->');
  const terms = left.split(',');
  if (terms.length !== node.input.length) return `The equation is of ${terms.length} inputs and there are ${node.input.length}.`;
  const { inputs } = shapes.view(node);
  for (const [index, term] of terms.entries()) {
    const rank = inputs[index]?.dims?.length;
    if (rank === undefined) return `It cannot be told how many dimensions input ${index} has, which must fit the equation.`;
    const letters = term.replace('...', '').length;
    if (term.includes('...') ? rank < letters : rank !== letters)
      return `Input ${index} has ${rank} dimensions and the equation "${term}".`;
  }
  return null;
}
