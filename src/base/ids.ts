import { randomUUID } from 'node:crypto';
import { badInput } from './errors.ts';
import { LIMITS } from './limits.ts';

let lastMs = 0;
let sequence = 0;

/**
 * UUID version 7 (RFC 9562): ordered by creation within this process, so that inserts go to the end of an index.
 * The 12 bits after the timestamp count up within a millisecond.
 */
export function newId(): string {
  const nowMs = Date.now();
  if (nowMs > lastMs) {
    lastMs = nowMs;
    sequence = 0;
  } else if (++sequence > 0xfff) {
    lastMs++;
    sequence = 0;
  }
  const time = lastMs.toString(16).padStart(12, '0');
  // The last 8 bytes of a version-4 UUID are the same variant and 62 random bits; Node draws those from a cache, 128 at a time.
  return `${time.slice(0, 8)}-${time.slice(8)}-7${sequence.toString(16).padStart(3, '0')}-${randomUUID().slice(19)}`;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export function isId(text: string): boolean {
  return UUID.test(text);
}

/** Every object type that has a global id. */
export const NODE_TYPES = [
  'Tenant',
  'User',
  'ApiKey',
  'Model',
  'ModelVersion',
  'Listing',
  'Plan',
  'Subscription',
  'Upload',
  'Prediction',
  'Transfer',
  'UsageLimit',
  'UsageAlert',
  'Dataset',
  'TrainingRun',
  'Optimization',
  'DeploymentRule',
  'Deployment',
] as const;
export type NodeType = (typeof NODE_TYPES)[number];

/** The opaque global id of the GraphQL API: base64url of `Type:uuid`. */
export function globalId(type: NodeType, id: string): string {
  return Buffer.from(`${type}:${id}`).toString('base64url');
}

/** The parts of a global id, or null where the text is none. */
export function parseGlobalId(text: string): { type: NodeType; id: string } | null {
  if (text.length > 128 || !/^[A-Za-z0-9_-]+$/.test(text)) return null;
  const [type, id, ...rest] = Buffer.from(text, 'base64url').toString('utf8').split(':');
  if (rest.length > 0 || id === undefined || !isId(id)) return null;
  const known = NODE_TYPES.find((name) => name === type);
  return known === undefined ? null : { type: known, id };
}

/** A page of a Relay connection: rows after `after` (an opaque cursor made of a row's id), at most `first` (1–100). */
export type PageRequest = { first: number; afterId: string | null };
export type Connection<T> = {
  edges: { cursor: string; node: T }[];
  nodes: T[];
  pageInfo: { hasNextPage: boolean; hasPreviousPage: boolean; startCursor: string | null; endCursor: string | null };
};

/** Checks `first`, then `after`. @throws BAD_USER_INPUT */
export function pageRequest(args: { first: number; after?: string | null | undefined }): PageRequest {
  if (!Number.isInteger(args.first) || args.first < 1 || args.first > LIMITS.pageSizeMax) {
    throw badInput('first', `first must be 1 to ${LIMITS.pageSizeMax}.`, {
      given: String(args.first),
      expected: `1 to ${LIMITS.pageSizeMax}`,
    });
  }
  if (args.after === undefined || args.after === null) return { first: args.first, afterId: null };
  const id = Buffer.from(args.after, 'base64url').toString('utf8');
  if (!isId(id)) throw badInput('after', 'after must be a cursor of an earlier page.', { expected: 'endCursor of a page' });
  return { first: args.first, afterId: id };
}

/** A connection from up to `first + 1` rows; the one too many says that there is a next page. */
export function connection<T extends { id: string }>(rows: readonly T[], page: PageRequest): Connection<T> {
  const nodes = rows.slice(0, page.first);
  const edges = nodes.map((node) => ({ cursor: Buffer.from(node.id).toString('base64url'), node }));
  return {
    edges,
    nodes,
    pageInfo: {
      hasNextPage: rows.length > page.first,
      hasPreviousPage: page.afterId !== null,
      startCursor: edges[0]?.cursor ?? null,
      endCursor: edges.at(-1)?.cursor ?? null,
    },
  };
}
