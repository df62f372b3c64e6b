import { createReadStream } from 'node:fs';
import { asTenant, type Database, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { LIMITS } from '../base/limits.ts';
import type { Catalog, ModelStore } from '../catalog/catalog.ts';
import type { Optimization, OptimizationKind, Prisma } from '../generated/prisma/client.ts';
import type { OptimizationRuleInput, OptimizeVersionInput } from '../generated/schema.ts';
import { parseLimits, within } from './bounds.ts';
import { insertEvaluation } from './evaluations.ts';
import { addReadyVersion } from './made-versions.ts';
import type { Decision, Report, Rule } from './optimise/optimise.ts';
import { metricOf } from './orders.ts';
import { dataKeyOf, fetchRunData, runData } from './runs.ts';
import { type Claim, finish, insertWork, type Limits, type Works } from './work.ts';
import type { Workshop } from './workshop.ts';

export type OptimizationView = Omit<Optimization, 'outcome'> & { outcome: Outcome | null };

/** What came of it; metrics are accuracy or R², null where no rows belong to the source. */
export type Outcome = Decision & { report: Report; notes: string[]; sourceMetric: number | null; metric: number | null };

type Options = { db: Database; store: ModelStore; catalog: Catalog; works: Works; workshop: Workshop };

type NewOptimisation = {
  tenantId: string;
  sourceVersionId: string;
  kind: OptimizationKind;
  runId: string | null;
  deploymentId: string | null;
  rule: Rule;
  limits: Limits;
};

export const OPTIMISE_LIMITS = { timeLimitMs: 600_000, memoryLimitMib: 4_096 };

export function createOptimisations({ db, store, catalog, works, workshop }: Options) {
  async function create(tenantId: string, { versionId, kind, ...input }: OptimizeVersionInput): Promise<OptimizationView> {
    const rule = parseRule(input.rule);
    const limits = parseLimits(input, OPTIMISE_LIMITS);
    const made = await asTenant(db, tenantId, async (tx) => {
      const source = await tx.modelVersion.findFirst({ where: { id: versionId, tenantId } });
      if (source === null) throw new MercatoError('NOT_FOUND');
      if (source.state !== 'READY') throw new MercatoError('CONFLICT', 'The version is not READY.', { field: 'versionId' });
      const run = await tx.trainingRun.findFirst({ where: { versionId, tenantId }, orderBy: { id: 'desc' } });
      if (run === null && kind === 'STATIC_INT8') {
        throw new MercatoError('CONFLICT', 'STATIC_INT8 is calibrated on the data of the training run, and none made this version.', {
          field: 'kind',
          expected: 'DYNAMIC_INT8, or a version of a training run',
        });
      }
      const common = { tenantId, sourceVersionId: versionId, kind, deploymentId: null };
      const id = await insertOptimisation(tx, { ...common, runId: run?.id ?? null, rule, limits });
      return viewOf(await tx.optimization.findUniqueOrThrow({ where: { id } }));
    });
    await works.request([{ id: made.id, kind: 'OPTIMIZE' }]);
    return made;
  }

  async function optimise(claim: Claim): Promise<void> {
    const { id, tenantId } = claim;
    const row = await asTenant(db, tenantId, (tx) =>
      tx.optimization.findUniqueOrThrow({ where: { id }, include: { source: true, run: { include: runData } } }),
    );
    await using folder = await workshop.folder(claim);
    await store.copyTo(row.source.sha256, folder.path('source.onnx'));
    const data = row.run && (await fetchRunData(store, row.run, folder));
    const rule = { maxAccuracyDrop: row.maxAccuracyDrop, minSpeedup: row.minSpeedup };
    const order = { kind: 'OPTIMISE', model: 'source.onnx', to: row.kind, rule, data } as const;
    const { answer, micros } = await workshop.perform(order, folder, { claim });

    const file = await store.put(createReadStream(folder.path(answer.model)), LIMITS.modelBytesMax);
    const version = await addReadyVersion(catalog, claim, { modelId: row.source.modelId, file, like: row.source });
    const { report, decision, notes, source, figures } = answer;
    const metrics = { sourceMetric: source && metricOf(source), metric: figures && metricOf(figures) };
    const outcome: Outcome = { ...decision, report, notes, ...metrics };
    await asTenant(db, tenantId, async (tx) => {
      if (row.run !== null && figures !== null) {
        await insertEvaluation(tx, { tenantId, versionId: version.id, dataKey: dataKeyOf(row.run), figures });
      }
      await tx.optimization.update({
        where: { id },
        data: { versionId: version.id, outcome: outcome as unknown as Prisma.InputJsonObject },
      });
      await finish(tx, claim, micros);
    });
  }

  /** A deployment that waits for this one is asked for at once; where this one fails, the next sweep finds it. */
  async function perform(claim: Claim): Promise<void> {
    const { deploymentId } = await asTenant(db, claim.tenantId, (tx) => tx.optimization.findUniqueOrThrow({ where: { id: claim.id } }));
    await optimise(claim);
    if (deploymentId !== null) await works.request([{ id: deploymentId, kind: 'DEPLOY' }]);
  }

  return { create, perform };
}

/** @throws BAD_USER_INPUT `rule.maxAccuracyDrop`, `rule.minSpeedup` */
export function parseRule(input: OptimizationRuleInput): Rule {
  return {
    maxAccuracyDrop: within('rule.maxAccuracyDrop', input.maxAccuracyDrop, [0, 1]),
    minSpeedup: within('rule.minSpeedup', input.minSpeedup, [0, 100]),
  };
}

export async function insertOptimisation(tx: Tx, { limits, rule, ...rest }: NewOptimisation): Promise<string> {
  const id = await insertWork(tx, rest.tenantId, 'OPTIMIZE', limits);
  await tx.optimization.create({ data: { id, ...rest, ...rule } });
  return id;
}

/** For a loader; row-level security decides who sees which. */
export async function optimisationsByVersion(tx: Tx, versionIds: readonly string[]): Promise<Map<string, OptimizationView>> {
  const rows = await tx.optimization.findMany({ where: { versionId: { in: [...versionIds] } }, orderBy: { id: 'asc' } });
  return new Map(rows.map((row) => [row.versionId ?? '', viewOf(row)]));
}

export async function optimisationsByDeployment(tx: Tx, deploymentIds: readonly string[]): Promise<Map<string, OptimizationView[]>> {
  const rows = await tx.optimization.findMany({ where: { deploymentId: { in: [...deploymentIds] } }, orderBy: { id: 'asc' } });
  return Map.groupBy(rows.map(viewOf), (view) => view.deploymentId ?? '');
}

export async function findOptimisation(tx: Tx, tenantId: string, id: string): Promise<OptimizationView | null> {
  const row = await tx.optimization.findFirst({ where: { id, tenantId } });
  return row && viewOf(row);
}

function viewOf(row: Optimization): OptimizationView {
  return { ...row, outcome: row.outcome as unknown as Outcome | null };
}
