import type { Evaluation } from './evaluate.ts';

/** What a person says about a model; every figure comes from the run and its evaluation. */
export type CardText = {
  title: string;
  what: string;
  trainedOn: string;
  evaluatedOn: string;
  use: string;
  limits: readonly string[];
};

type CardRun = { seed: number; epochs: number; batchRows: number; parameters: number; bytes: number; sha256: string; loss: number };

/** A model card of a classifier in Markdown. The same run gives the same text. */
export function classifierCard(text: CardText, run: CardRun, evaluation: Evaluation): string {
  return `# ${text.title}

${text.what}

## Training

${text.trainedOn}
Seed ${run.seed}, ${run.epochs} epochs, batches of ${run.batchRows}; mean loss of the last epoch ${run.loss.toFixed(4)}.
${group(run.parameters)} parameters, ${group(run.bytes)} bytes, SHA-256 \`${run.sha256}\`.

## Evaluation

${text.evaluatedOn}
**Accuracy ${percent(evaluation.accuracy)}** on ${group(evaluation.rows)} rows.

| class | recall | precision |
|---|---|---|
${evaluation.recall.map((recall, index) => `| ${index} | ${percent(recall)} | ${percent(evaluation.precision[index] ?? null)} |`).join('\n')}

Confusion: rows are the truth, columns the answer.

${confusionTable(evaluation.confusion)}

## Intended use

${text.use}

## Limits

${text.limits.map((one) => `- ${one}`).join('\n')}
`;
}

function confusionTable(confusion: readonly (readonly number[])[]): string {
  const line = (cells: readonly (string | number)[]) => `| ${cells.join(' | ')} |`;
  const classes = confusion.map((_, index) => index);
  return [
    line(['', ...classes]),
    line(['', ...classes].map(() => '---:')),
    ...confusion.map((row, index) => line([`**${index}**`, ...row])),
  ].join('\n');
}

/** `94.8 %`; a dash where there is nothing to divide by. */
function percent(ratio: number | null): string {
  return ratio === null ? '–' : `${(100 * ratio).toFixed(2)} %`;
}

function group(value: number): string {
  return value.toLocaleString('en-US');
}
