import type { Tx } from '../base/database.ts';
import { newId } from '../base/ids.ts';
import type { Evaluation, Prisma } from '../generated/prisma/client.ts';
import { type Figures, metricOf } from './orders.ts';

/** `metric` is what rules compare: accuracy, or R². */
export type EvaluationView = Pick<Evaluation, 'id' | 'versionId' | 'dataKey' | 'createdAt'> & { figures: Figures; metric: number };

type NewEvaluation = { tenantId: string; versionId: string; dataKey: string; figures: Figures };

const NEWEST_MAX = 20;

/** The same version on the same rows does the same: a second time writes nothing. */
export async function insertEvaluation(tx: Tx, { figures, ...rest }: NewEvaluation): Promise<void> {
  const data = { id: newId(), ...rest, figures: figures as unknown as Prisma.InputJsonObject };
  await tx.evaluation.createMany({ data, skipDuplicates: true });
}

export async function findEvaluation(tx: Tx, versionId: string, dataKey: string): Promise<EvaluationView | null> {
  const row = await tx.evaluation.findUnique({ where: { versionId_dataKey: { versionId, dataKey } } });
  return row && viewOf(row);
}

/** Of each version the newest, newest first. For a loader; row-level security decides who sees which. */
export async function evaluationsByVersion(tx: Tx, versionIds: readonly string[]): Promise<Map<string, EvaluationView[]>> {
  const rows = await tx.evaluation.findMany({ where: { versionId: { in: [...versionIds] } }, orderBy: { id: 'desc' } });
  const views = Map.groupBy(rows.map(viewOf), (view) => view.versionId);
  return new Map([...views].map(([versionId, list]) => [versionId, list.slice(0, NEWEST_MAX)]));
}

function viewOf({ id, versionId, dataKey, createdAt, figures }: Evaluation): EvaluationView {
  const read = figures as unknown as Figures;
  return { id, versionId, dataKey, createdAt, figures: read, metric: metricOf(read) };
}
