import { readFileSync } from 'node:fs';
import { resolvers as access } from '../access/resolvers.ts';
import type { Log } from '../base/log.ts';
import { resolvers as billing } from '../billing/resolvers.ts';
import { resolvers as catalog } from '../catalog/resolvers.ts';
import { resolvers as prediction } from '../prediction/resolvers.ts';
import { resolvers as tenancy } from '../tenancy/resolvers.ts';
import { resolvers as training, live as trainingLive } from '../training/resolvers.ts';
import { resolvers as usage } from '../usage/resolvers.ts';
import type { Services } from './context.ts';
import { createLive, type Live } from './live.ts';
import { resolvers as node } from './node.ts';
import { scalars } from './scalars.ts';
import { executableSchema, type ResolverMap } from './schema.ts';
import { type GraphQLServer, serveGraphQL } from './server.ts';

export type { Services } from './context.ts';
export type { Live, LiveAnswer, LiveRequest } from './live.ts';
export { credentialsOf, type GraphQLServer } from './server.ts';

const SCHEMA = new URL('../../schema.graphql', import.meta.url);

/** The marketplace's API: schema.graphql with every context's resolvers. `services` stay the caller's to dispose, after `stop`. */
export async function createGraphQL(services: Services, log: Log): Promise<GraphQLServer & { live: Live }> {
  const resolvers = merge([scalars, node, tenancy, access, catalog, usage, billing, prediction, training]);
  const typeDefs = readFileSync(SCHEMA, 'utf8');
  const live = createLive(services, executableSchema(typeDefs, resolvers), trainingLive, log);
  return { ...(await serveGraphQL(services, { typeDefs, resolvers }, log)), live };
}

/** One map of all; a field that two contexts resolve is a mistake, and so is one that the schema lacks, which `serveGraphQL` refuses. */
function merge(maps: readonly ResolverMap[]): ResolverMap {
  const merged: ResolverMap = {};
  for (const map of maps) {
    for (const [type, fields] of Object.entries(map)) {
      const twice = Object.keys(fields).find((field) => merged[type] !== undefined && field in merged[type]);
      if (twice !== undefined) throw new Error(`${type}.${twice} has two resolvers`);
      merged[type] = type in scalars ? fields : { ...merged[type], ...fields };
    }
  }
  return merged;
}
