import { graph, model, type OnnxModel, value } from '../../inference/onnx/onnx.ts';
import { batchOf } from './batches.ts';
import type { Examples, Scaling } from './examples.ts';
import { FEATURES } from './gradient.ts';
import { LOSS, type LossKind, lossOf } from './losses.ts';
import { layForward, type Net } from './sequential.ts';
import type { Session, Tensor } from './session.ts';
import { ROWS, Tape } from './tape.ts';

/** `metric`: accuracy, or R² over all targets as they are learnt. */
export type Validation = { loss: number; metric: number };

/** Output: what the loss stands on, logits or numbers. */
const OUTPUT = '/output';
const ROWS_PER_RUN = 1_000;

/** The net as it serves, with its loss: inputs as of a step without masks; outputs LOSS and OUTPUT. */
export function validationModel(net: Net, kind: LossKind): OnnxModel {
  const loss = lossOf(kind, net);
  const tape = new Tape(net.precision);
  tape.feed(FEATURES, net.precision, [ROWS, ...net.dims]);
  for (const { name, dims } of [...net.parameters, ...net.carried]) tape.feed(name, net.precision, dims);
  const { output } = layForward(net.layers.slice(0, loss.layersOf(net)), tape, FEATURES, 'infer');
  loss.lay(tape, net, output);
  tape.name(output, OUTPUT);
  const outputs = [value(LOSS, net.precision, []), value(OUTPUT, net.precision, [ROWS, ...net.outputDims])];
  return model(graph({ name: 'validation', nodes: tape.nodes, inputs: tape.inputs, outputs, initializers: tape.constants }));
}

/** How the net does on rows that it does not learn from. `state` holds at least its parameters and what is carried. */
export async function validate(
  session: Session,
  net: Net,
  examples: Examples,
  scaling: Scaling | null,
  state: ReadonlyMap<string, Tensor>,
): Promise<Validation> {
  const names = [...net.parameters, ...net.carried].map(({ name }) => name);
  const weights = Object.fromEntries([...state].filter(([name]) => names.includes(name)));
  let loss = 0;
  const outputs = new Float64Array(examples.rows * (net.outputDims[0] ?? 1));
  for (let from = 0; from < examples.rows; from += ROWS_PER_RUN) {
    const rows = Uint32Array.from({ length: Math.min(ROWS_PER_RUN, examples.rows - from) }, (_, index) => from + index);
    const result = await session.run({ ...weights, ...batchOf(net, examples, scaling, rows) });
    loss += Number(result[LOSS]?.data[0]) * rows.length;
    outputs.set(Float64Array.from(result[OUTPUT]?.data as Float32Array), from * (net.outputDims[0] ?? 1));
  }
  return { loss: loss / examples.rows, metric: metricOf(examples, scaling, outputs) };
}

function metricOf({ rows, targets }: Examples, scaling: Scaling | null, outputs: Float64Array): number {
  const width = outputs.length / rows;
  if (targets.kind === 'CLASSES') {
    let right = 0;
    for (const [row, truth] of targets.values.entries()) {
      const answer = outputs.subarray(row * width, (row + 1) * width);
      const label = width === 1 ? Number((answer[0] ?? 0) > 0) : answer.indexOf(Math.max(...answer));
      right += Number(label === truth);
    }
    return right / rows;
  }
  const scaled = targets.values.map((raw, at) => (raw - (scaling?.mean[at % width] ?? 0)) / (scaling?.deviation[at % width] ?? 1));
  return rSquared(scaled, outputs, width);
}

/** 1 − Σ (y − ŷ)² / Σ (y − mean y)², the mean by column; 0 where nothing varies. */
export function rSquared(truth: Float64Array, answers: Float64Array, width: number): number {
  const rows = truth.length / width;
  const means = Array.from({ length: width }, () => 0);
  for (const [at, y] of truth.entries()) means[at % width] = (means[at % width] ?? 0) + y / rows;
  let [rest, whole] = [0, 0];
  for (const [at, y] of truth.entries()) {
    rest += (y - (answers[at] ?? 0)) ** 2;
    whole += (y - (means[at % width] ?? 0)) ** 2;
  }
  return whole === 0 ? 0 : 1 - rest / whole;
}
