import type { Figures } from '../training/training.ts';

/** What a person says about a model; every figure comes from its training and its evaluation. */
export type CardText = {
  title: string;
  what: string;
  trainedOn: string;
  evaluatedOn: string;
  use: string;
  limits: readonly string[];
};

export type CardFacts = { bytes: number; sha256: string };

/** A model card in Markdown. The same figures give the same text. */
export function modelCard(text: CardText, { bytes, sha256 }: CardFacts, figures: Figures): string {
  return `# ${text.title}

${text.what}

## Training

${text.trainedOn}
${grouped(bytes)} bytes, SHA-256 \`${sha256}\`.

## Evaluation

${text.evaluatedOn}
${figures.kind === 'CLASSES' ? classesOf(figures) : numbersOf(figures)}

## Intended use

${text.use}

## Limits

${text.limits.map((one) => `- ${one}`).join('\n')}
`;
}

function classesOf(figures: Figures & { kind: 'CLASSES' }): string {
  const { classes, recall, precision, calibration, confusion } = figures;
  const rows = classes.map((name, index) => [name, percent(recall[index] ?? null), percent(precision[index] ?? null)]);
  const bins = calibration.map((bin) => [
    `${percent(bin.from)} to ${percent(bin.to)}`,
    grouped(bin.rows),
    percent(bin.confidence),
    percent(bin.accuracy),
  ]);
  return `**Accuracy ${percent(figures.accuracy)}** on ${grouped(figures.rows)} rows; mean log loss ${figures.logLoss.toFixed(4)}; expected calibration
error ${percent(figures.expectedCalibrationError)}.

${table(['class', 'recall', 'precision'], rows)}

Confusion: rows are the truth, columns the answer.

${table(
  ['', ...classes],
  confusion.map((row, index) => [`**${classes[index]}**`, ...row.map(String)]),
)}

Calibration: how often an answer of such a probability is right.

${table(['probability', 'rows', 'mean', 'right'], bins)}`;
}

function numbersOf({ rows, names, meanSquaredError, meanAbsoluteError, r2 }: Figures & { kind: 'NUMBERS' }): string {
  return `**R² ${r2.toFixed(4)}** of ${names.join(', ')} on ${grouped(rows)} rows; mean absolute error ${grouped(Math.round(meanAbsoluteError))}; root of the
mean squared error ${grouped(Math.round(Math.sqrt(meanSquaredError)))}.`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---:')), ...rows.map(line)].join('\n');
}

/** `94.80 %`; a dash where there is nothing to divide by. */
function percent(ratio: number | null): string {
  return ratio === null ? '–' : `${(100 * ratio).toFixed(2)} %`;
}

function grouped(value: number): string {
  return value.toLocaleString('en-US');
}
