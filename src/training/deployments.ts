import { asTenant, type Database, isUniqueViolation, type Tx } from '../base/database.ts';
import { MercatoError } from '../base/errors.ts';
import { newId } from '../base/ids.ts';
import { type Catalog, type ModelStore, parseAlias } from '../catalog/catalog.ts';
import type { Deployment, DeploymentRule, Optimization, WorkKind } from '../generated/prisma/client.ts';
import type { CreateDeploymentRuleInput } from '../generated/schema.ts';
import { mustBe, within } from './bounds.ts';
import { type EvaluationView, findEvaluation, insertEvaluation } from './evaluations.ts';
import { insertOptimisation, OPTIMISE_LIMITS, type Outcome, parseRule } from './optimisations.ts';
import type { Report } from './optimise/optimise.ts';
import { metricOf } from './orders.ts';
import { dataKeyOf, fetchRunData, type RunWithData, runData } from './runs.ts';
import { type Claim, finish, insertWork, spend } from './work.ts';
import type { Workshop } from './workshop.ts';

export type DeploymentRuleView = DeploymentRule;
export type DeploymentView = Omit<Deployment, 'rule'> & { rule: KeptRule };

/** What a deployment keeps of its rule. */
type KeptRule = { alias: string; minMetric: number | null };

type RunResult = { id: string; tenantId: string; modelId: string; versionId: string };

export type Deployments = {
  /** In the transaction that ends a run: a deployment for each rule of its model, with the optimisations that it tries. */
  prepare(tx: Tx, run: RunResult): Promise<{ id: string; kind: WorkKind }[]>;
  /** Decides once its optimisations have ended, and moves the alias where something is better. */
  deploy(claim: Claim): Promise<void>;
  createRule(tenantId: string, input: CreateDeploymentRuleInput): Promise<DeploymentRuleView>;
  deleteRule(tenantId: string, id: string): Promise<void>;
};

type Options = { db: Database; store: ModelStore; catalog: Catalog; workshop: Workshop };

/** What may take the alias: the run's own version, or one optimised from it. `speed`: how many times as fast. */
type Candidate = { versionId: string; metric: number; speed: number; what: string };

export function createDeployments({ db, store, catalog, workshop }: Options): Deployments {
  async function deploy(claim: Claim): Promise<void> {
    const { id, tenantId } = claim;
    const row = await asTenant(db, tenantId, (tx) =>
      tx.deployment.findUniqueOrThrow({ where: { id }, include: { run: { include: runData }, optimizations: true } }),
    );
    const { alias, minMetric } = keptRule(row);
    const dataKey = dataKeyOf(row.run);
    const trained = await asTenant(db, tenantId, (tx) => findEvaluation(tx, row.run.versionId ?? '', dataKey));
    if (trained === null) throw new Error(`run ${row.runId} has no evaluation`);
    const currentId = await asTenant(db, tenantId, (tx) => catalog.aliasTarget(tx, tenantId, row.run.modelId, alias));
    const current = currentId === null ? null : await metricOfCurrent(claim, currentId, row.run, dataKey);
    const { best, reasons } = choose({ trained, optimizations: row.optimizations, current, minMetric });
    if (best !== null && best.versionId !== currentId) {
      await catalog.promoteVersion(tenantId, { versionId: best.versionId, alias }, { ruleId: row.ruleId });
    }
    await asTenant(db, tenantId, async (tx) => {
      await tx.deployment.update({ where: { id }, data: { versionId: best?.versionId ?? null, reasons } });
      await finish(tx, claim, 0);
    });
  }

  /** The current version on the run's rows, evaluated now where it was not; null where it does not take them. */
  async function metricOfCurrent(claim: Claim, versionId: string, run: RunWithData, dataKey: string): Promise<number | null> {
    const known = await asTenant(db, claim.tenantId, (tx) => findEvaluation(tx, versionId, dataKey));
    if (known !== null) return known.metric;
    await using folder = await workshop.folder(claim);
    const { sha256 } = await asTenant(db, claim.tenantId, (tx) => tx.modelVersion.findUniqueOrThrow({ where: { id: versionId } }));
    await store.copyTo(sha256, folder.path('model.onnx'));
    const order = { kind: 'EVALUATE', data: await fetchRunData(store, run, folder), model: 'model.onnx' } as const;
    try {
      const { answer: figures, micros } = await workshop.perform(order, folder, { claim });
      await asTenant(db, claim.tenantId, async (tx) => {
        await insertEvaluation(tx, { tenantId: claim.tenantId, versionId, dataKey, figures });
        await spend(tx, claim, micros);
      });
      return metricOf(figures);
    } catch (error) {
      if (error instanceof MercatoError && error.code === 'MODEL_FAILED') return null;
      throw error;
    }
  }

  async function createRule(tenantId: string, input: CreateDeploymentRuleInput): Promise<DeploymentRuleView> {
    const { modelId, optimizations } = input;
    const alias = parseAlias('alias', input.alias);
    mustBe(new Set(optimizations).size === optimizations.length, 'optimizations', optimizations, 'different kinds');
    const minMetric = input.minMetric === null || input.minMetric === undefined ? null : within('minMetric', input.minMetric, [-1e6, 1]);
    const rule = parseRule(input.rule);
    try {
      return await asTenant(db, tenantId, async (tx) => {
        if ((await tx.model.findFirst({ where: { id: modelId, tenantId } })) === null) throw new MercatoError('NOT_FOUND');
        return tx.deploymentRule.create({ data: { id: newId(), tenantId, modelId, alias, optimizations, minMetric, ...rule } });
      });
    } catch (error) {
      if (!isUniqueViolation(error)) throw error;
      throw new MercatoError('CONFLICT', 'The alias has a rule already; delete it first.', { field: 'alias', given: alias });
    }
  }

  async function deleteRule(tenantId: string, id: string): Promise<void> {
    const { count } = await asTenant(db, tenantId, (tx) => tx.deploymentRule.deleteMany({ where: { id, tenantId } }));
    if (count === 0) throw new MercatoError('NOT_FOUND');
  }

  return { prepare, deploy, createRule, deleteRule };
}

async function prepare(tx: Tx, { id: runId, tenantId, modelId, versionId }: RunResult): Promise<{ id: string; kind: WorkKind }[]> {
  const made: { id: string; kind: WorkKind }[] = [];
  for (const rule of await tx.deploymentRule.findMany({ where: { tenantId, modelId } })) {
    const { alias, minMetric, maxAccuracyDrop, minSpeedup } = rule;
    const deploymentId = await insertWork(tx, tenantId, 'DEPLOY', OPTIMISE_LIMITS);
    await tx.deployment.create({ data: { id: deploymentId, tenantId, runId, ruleId: rule.id, rule: { alias, minMetric }, reasons: [] } });
    for (const kind of rule.optimizations) {
      const common = { tenantId, sourceVersionId: versionId, kind, runId, deploymentId, limits: OPTIMISE_LIMITS };
      made.push({ id: await insertOptimisation(tx, { ...common, rule: { maxAccuracyDrop, minSpeedup } }), kind: 'OPTIMIZE' });
    }
    made.push({ id: deploymentId, kind: 'DEPLOY' });
  }
  return made;
}

type Facts = {
  trained: EvaluationView;
  optimizations: readonly Optimization[];
  /** The metric of what the alias points to; null: it points to nothing, or to what does not take these rows. */
  current: number | null;
  minMetric: number | null;
};

/** The fastest of what is good enough, where the run's own version is better than the current; in words why. */
export function choose({ trained, optimizations, current, minMetric }: Facts): { best: Candidate | null; reasons: string[] } {
  const own: Candidate = { versionId: trained.versionId, metric: trained.metric, speed: 1, what: 'the trained version' };
  const reasons = [`the trained version has ${trained.metric.toFixed(4)}`];
  const others = optimizations.flatMap((one): Candidate[] => {
    const outcome = one.outcome as unknown as Outcome | null;
    if (one.versionId === null || outcome === null || outcome.metric === null) {
      reasons.push(`${one.kind} failed`);
      return [];
    }
    const speed = speedOf(outcome.report);
    reasons.push(
      `${one.kind} has ${outcome.metric.toFixed(4)}, is ${speed.toFixed(2)} times as fast, and ${outcome.promotable ? 'may' : 'may not'} replace it`,
    );
    return outcome.promotable ? [{ versionId: one.versionId, metric: outcome.metric, speed, what: one.kind }] : [];
  });
  if (current !== null && trained.metric <= current) {
    return { best: null, reasons: [...reasons, `the current version is as good: ${current.toFixed(4)}`] };
  }
  const enough = [own, ...others].filter((one) => minMetric === null || one.metric >= minMetric);
  const [best] = enough.sort((a, b) => b.speed - a.speed);
  if (best === undefined) return { best: null, reasons: [...reasons, `nothing reaches ${minMetric}`] };
  return { best, reasons: [...reasons, `${best.what} is promoted`] };
}

/** How many times as fast, in the geometric mean over the batches, as the rule has it. */
function speedOf({ latency }: Report): number {
  const logs = latency.map(({ sourceMs, optimisedMs }) => Math.log(sourceMs / optimisedMs));
  return logs.length === 0 ? 1 : Math.exp(logs.reduce((sum, one) => sum + one, 0) / logs.length);
}

export async function rulesOf(tx: Tx, tenantId: string, modelId: string): Promise<DeploymentRuleView[]> {
  if ((await tx.model.findFirst({ where: { id: modelId, tenantId } })) === null) throw new MercatoError('NOT_FOUND');
  return tx.deploymentRule.findMany({ where: { tenantId, modelId }, orderBy: { id: 'asc' } });
}

export async function findRule(tx: Tx, tenantId: string, id: string): Promise<DeploymentRuleView | null> {
  return tx.deploymentRule.findFirst({ where: { id, tenantId } });
}

export async function findDeployment(tx: Tx, tenantId: string, id: string): Promise<DeploymentView | null> {
  const row = await tx.deployment.findFirst({ where: { id, tenantId } });
  return row && viewOf(row);
}

/** For a loader. */
export async function deploymentsByRun(tx: Tx, runIds: readonly string[]): Promise<Map<string, DeploymentView[]>> {
  const rows = await tx.deployment.findMany({ where: { runId: { in: [...runIds] } }, orderBy: { id: 'asc' } });
  return Map.groupBy(rows.map(viewOf), (view) => view.runId);
}

function keptRule({ rule }: Pick<Deployment, 'rule'>): KeptRule {
  return rule as unknown as KeptRule;
}

function viewOf(row: Deployment): DeploymentView {
  return { ...row, rule: keptRule(row) };
}
