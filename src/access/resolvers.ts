import { MercatoError } from '../base/errors.ts';
import { globalId, type NodeType, pageRequest, parseGlobalId } from '../base/ids.ts';
import type { Resolvers } from '../generated/schema.ts';
import { authorize } from './access.ts';

export const resolvers = {
  Query: {
    viewer: (_, __, { principal }) => authorize(principal, null),
    apiKeys(_, args, { principal, access, read }) {
      const caller = authorize(principal, 'key:read');
      const page = pageRequest(args);
      return read((tx) => access.apiKeys(tx, caller, page));
    },
  },

  Mutation: {
    signUp: (_, { input: { idempotencyKey, ...account } }, { access }) =>
      idempotencyKey == null ? access.signUp(account) : access.signUpOnce(account, idempotencyKey),
    signIn(_, { input: { idempotencyKey, tenantName, ...credentials } }, { access }) {
      const input = { ...credentials, tenantName: tenantName ?? null };
      return idempotencyKey == null ? access.signIn(input) : access.signInOnce(input, idempotencyKey);
    },
    async refreshSession(_, { input }, { access }) {
      return { tokens: await access.refreshSession(input.refreshToken, input.idempotencyKey ?? null) };
    },
    async signOut(_, { input }, { access }) {
      await access.signOut(input.refreshToken);
      return { signedOut: true };
    },
    async createTenant(_, { input }, { principal, access }) {
      const caller = authorize(principal, null);
      return { tenant: await access.createTenant(caller, { name: input.name, displayName: input.displayName ?? null }) };
    },
    switchTenant(_, { input }, { principal, access }) {
      const caller = authorize(principal, null);
      return access.switchTenant(caller, idOf('Tenant', input.tenantId), input.idempotencyKey ?? null);
    },
    createApiKey(_, { input }, { principal, access }) {
      const caller = authorize(principal, 'key:write');
      const key = { name: input.name, scopes: input.scopes ?? ['model:predict'], expiresAt: input.expiresAt ?? null };
      const { idempotencyKey } = input;
      return idempotencyKey == null ? access.createApiKey(caller, key) : access.createApiKeyOnce(caller, key, idempotencyKey);
    },
    async revokeApiKey(_, { input }, { principal, access }) {
      const caller = authorize(principal, 'key:write');
      return { apiKey: await access.revokeApiKey(caller, idOf('ApiKey', input.id)) };
    },
  },

  Viewer: {
    user: (caller, _, { access, read }) => read((tx) => access.viewer.user(tx, caller)),
    tenant: (caller, _, { access, read }) => read((tx) => access.viewer.tenant(tx, caller)),
    scopes: ({ scopes }) => [...scopes].sort(),
    apiKey: (caller, _, { access, read }) => {
      const { apiKeyId } = caller;
      return apiKeyId === null ? null : read((tx) => access.apiKey(tx, caller, apiKeyId));
    },
    memberships: (caller, _, { access, apart }) => apart(() => access.viewer.memberships(caller)),
  },

  ApiKey: { id: ({ id }) => globalId('ApiKey', id) },
} satisfies Resolvers;

/** The object's own id. A global id of another type names no such object. @throws NOT_FOUND */
function idOf(type: NodeType, text: string): string {
  const parsed = parseGlobalId(text);
  if (parsed?.type !== type) throw new MercatoError('NOT_FOUND');
  return parsed.id;
}
