import type { Principal, Scope } from '../access/access.ts';
import type { Tx } from '../base/database.ts';
import { type NodeType, parseGlobalId } from '../base/ids.ts';
import type { Resolvers, ResolversParentTypes } from '../generated/schema.ts';
import { tenantById, userById } from '../tenancy/tenancy.ts';
import type { GraphQLContext } from './context.ts';

type Row = ResolversParentTypes['Node'];
type FindPublic = (context: GraphQLContext, tx: Tx, id: string) => Promise<Row | null>;
type FindPrivate = (context: GraphQLContext, tx: Tx, id: string, caller: Principal) => Promise<Row | null>;
/** The types that implement Node; a global id may name others, which `node` does not know. */
type NodeName = Exclude<NodeType, 'Listing' | 'Prediction'>;

/** Objects of the public catalogue: row-level security decides who sees which. */
const PUBLIC: Partial<Record<NodeType, FindPublic>> = {
  Tenant: (_, tx, id) => tenantById(tx, id),
  Model: ({ catalog, principal }, tx, id) => catalog.findModel(tx, principal?.tenantId ?? null, id),
  ModelVersion: ({ catalog, principal }, tx, id) => catalog.findModelVersion(tx, principal?.tenantId ?? null, id),
  Plan: ({ catalog, principal }, tx, id) => catalog.findPlan(tx, principal?.tenantId ?? null, id),
};

/** Objects of the caller's tenant, under the scope that the fields which list them ask for. */
const PRIVATE: Partial<Record<NodeType, { scope: Scope; find: FindPrivate }>> = {
  User: { scope: 'member:read', find: (_, tx, id) => userById(tx, id) },
  ApiKey: { scope: 'key:read', find: ({ access }, tx, id, caller) => access.apiKey(tx, caller, id) },
  Upload: { scope: 'model:read', find: ({ catalog }, tx, id, caller) => catalog.findUpload(tx, caller.tenantId, id) },
  Subscription: { scope: 'subscription:read', find: ({ catalog }, tx, id, caller) => catalog.findSubscription(tx, caller.tenantId, id) },
  Transfer: { scope: 'billing:read', find: ({ billing }, tx, id, caller) => billing.findTransfer(tx, caller.tenantId, id) },
  UsageLimit: { scope: 'usage:read', find: ({ usage }, tx, id, caller) => usage.findLimit(tx, caller.tenantId, id) },
  UsageAlert: { scope: 'usage:read', find: ({ usage }, tx, id, caller) => usage.findAlert(tx, caller.tenantId, id) },
  Dataset: { scope: 'model:read', find: ({ training }, tx, id, caller) => training.findDataset(tx, caller.tenantId, id) },
  TrainingRun: { scope: 'model:read', find: ({ training }, tx, id, caller) => training.findTrainingRun(tx, caller.tenantId, id) },
  Optimization: { scope: 'model:read', find: ({ training }, tx, id, caller) => training.findOptimization(tx, caller.tenantId, id) },
  DeploymentRule: { scope: 'model:read', find: ({ training }, tx, id, caller) => training.findDeploymentRule(tx, caller.tenantId, id) },
  Deployment: { scope: 'model:read', find: ({ training }, tx, id, caller) => training.findDeployment(tx, caller.tenantId, id) },
};

/** Rows do not say what they are; `node` knows which finder found them. */
const names = new WeakMap<Row, NodeName>();

export const resolvers = {
  Query: {
    /** Null alike for no id, no object, another tenant's, and one whose scope the caller lacks. */
    node: async (_, { id }, context) => {
      const parsed = parseGlobalId(id);
      if (parsed === null || parsed.type === 'Listing' || parsed.type === 'Prediction') return null;
      const row = await find(parsed.type, parsed.id, context);
      if (row) names.set(row, parsed.type);
      return row;
    },
  },
  Node: { __resolveType: (row) => names.get(row) ?? null },
} satisfies Resolvers;

async function find(type: NodeName, id: string, context: GraphQLContext): Promise<Row | null> {
  const findPublic = PUBLIC[type];
  if (findPublic) return context.read((tx) => findPublic(context, tx, id));
  const rule = PRIVATE[type];
  const caller = context.principal;
  if (!rule || !caller?.scopes.has(rule.scope)) return null;
  return context.read((tx) => rule.find(context, tx, id, caller));
}
