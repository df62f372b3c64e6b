/** READ: an ONNX file of 1 MB of small nodes, the worst that a file of its size can be, read and checked before a runtime sees it. */
import { checkModel, decodeModel, encodeModel, graph, model, node, value } from '../../src/inference/onnx/onnx.ts';
import type { Figure } from './figure.ts';
import { type Effort, median } from './sides.ts';

const NODES = 21_000;
const MEGABYTE = 1_000_000;

/** A chain of nodes with names, as exporters write them. */
function manyNodes(): Uint8Array {
  const forms = [
    (from: string, to: string, name: string) => node('Relu', [from], [to], {}, { name: `relu_${name}` }),
    (from: string, to: string, name: string) => node('Add', [from, 'x'], [to], {}, { name: `add_${name}` }),
    (from: string, to: string, name: string) => node('Softmax', [from], [to], { axis: -1 }, { name: `softmax_${name}` }),
    (from: string, to: string, name: string) => node('Transpose', [from], [to], { perm: [0, 1] }, { name: `transpose_${name}` }),
  ];
  const nodes = Array.from({ length: NODES }, (_, index) => {
    const form = forms[index % forms.length] as (typeof forms)[number];
    return form(index === 0 ? 'x' : `v${index - 1}`, `v${index}`, `${index}`);
  });
  const io = { inputs: [value('x', 'FP32', ['N', 4])], outputs: [value(`v${NODES - 1}`, 'FP32', ['N', 4])] };
  return encodeModel(model(graph({ name: 'chain', nodes, ...io })));
}

function timeOf(work: () => unknown): number {
  const startedMs = performance.now();
  work();
  return performance.now() - startedMs;
}

/** The time of 1 MB by that of the file, warm: an optimising compiler has seen the reader. */
export function reading({ rounds, seconds }: Effort): Figure {
  const bytes = manyNodes();
  const per = MEGABYTE / bytes.length;
  const times: { whole: number[]; decode: number[] }[] = [];
  for (let round = -1; round < rounds; round++) {
    const [whole, decode]: [number[], number[]] = [[], []];
    for (const endMs = performance.now() + seconds * 1000; performance.now() < endMs; ) {
      whole.push(timeOf(() => checkModel(bytes)) * per);
      decode.push(timeOf(() => decodeModel(bytes)) * per);
    }
    if (round >= 0) times.push({ whole, decode });
  }
  const result = times.map(({ whole }) => median(whole));
  const decoding = median(times.map(({ decode }) => median(decode)));
  const least = Math.min(...times.flatMap(({ whole }) => whole));
  return {
    ...{ id: 'READ', what: '1 MB of small nodes, read and checked', unit: 'ms', rounds: result, value: median(result) },
    ours: `decoded in ${decoding.toFixed(1)}; least ${least.toFixed(1)} ms; ${bytes.length} bytes, ${NODES} nodes`,
    theirs: '',
    mark: { most: 10 },
    goal: { most: 10 },
    notes: [],
  };
}
