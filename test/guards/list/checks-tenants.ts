import { type Guard, guardsOf } from '../guard.ts';

const ACCESS = 'database/access';
const ALONE = 'database/without-walls';
const AUDIT = 'database/audit';
const DOORS = 'database/doors';
const METERS = 'database/meters';

/** What the audit of one tenant reads, and where. */
const SCOPES: [find: string, what: string][] = [
  ['select * from public.account where tenant_id = $1::uuid', 'accounts'],
  ['select id, batch_id from public.transfer where consumer_tenant_id = $1::uuid', 'transfers as a consumer'],
  ['select id, batch_id from public.transfer where publisher_tenant_id = $1::uuid', 'transfers as a publisher'],
  ['select * from public.usage_counter where consumer_tenant_id = $1::uuid', 'counters as a consumer'],
  ['select * from public.usage_counter where publisher_tenant_id = $1::uuid', 'counters as a publisher'],
  ['select * from public.lease where consumer_tenant_id = $1::uuid', 'leases'],
  ['select * from public.usage_record where consumer_tenant_id = $1::uuid', 'records as a consumer'],
  ['select * from public.usage_record where publisher_tenant_id = $1::uuid and consumer_tenant_id <> $1::uuid', 'records as a publisher'],
  ['select * from public.usage_rollup where consumer_tenant_id = $1::uuid', 'rollups as a consumer'],
  ['select * from public.usage_rollup where publisher_tenant_id = $1::uuid and consumer_tenant_id <> $1::uuid', 'rollups as a publisher'],
  ['select * from public.limit_counter where tenant_id = $1::uuid', 'counters of limits'],
  ['select * from public.usage_alert where tenant_id = $1::uuid', 'alerts'],
  ['select * from public.idempotency_key where tenant_id = $1::uuid', 'keys of calls'],
  ['select * from public.subscription_charge where consumer_tenant_id = $1::uuid', 'charges as a consumer'],
  ['select * from public.subscription_charge where publisher_tenant_id = $1::uuid', 'charges as a publisher'],
];
const where = (find: string, condition: string) => `${find.slice(0, find.indexOf(' where '))} where ${condition}`;

/** Whose rows are read and written, and by what a tenant is known. */
export const tenantChecks: Guard[] = [
  ...guardsOf(
    'code',
    'src/prediction/audit-scope.ts',
    AUDIT,
    SCOPES.flatMap(([find, what]): [string, string, string][] => [
      [`the audit of a tenant is of its ${what}`, find, where(find, 'false')],
      [`the audit of a tenant is of no other's ${what}`, find, where(find, 'true')],
    ]),
  ),
  ...guardsOf('code', 'src/prediction/audit-scope.ts', AUDIT, [
    ['the audit of a tenant is of its messages', 'public.outbox where tenant_id = $1::uuid', 'public.outbox where false'],
    [
      'the audit of a tenant has a record of its own model once',
      'public.usage_record where publisher_tenant_id = $1::uuid and consumer_tenant_id <> $1::uuid',
      'public.usage_record where publisher_tenant_id = $1::uuid',
    ],
  ]),
  ...guardsOf('code', 'src/app.ts', 'api/export', [
    [
      'an export asks for its scope',
      "authorize(await access.authenticate(credentialsOf(headers)), 'usage:read')",
      'authorize(await access.authenticate(credentialsOf(headers)), null)',
    ],
    ['an export asks before each page', 'tenantId, query, look);', 'tenantId, query, async () => {});'],
  ]),
  ...guardsOf('code', 'src/tenancy/tenancy.ts', 'unit/tenancy', [
    [
      'a handle is in form',
      'return name;\n  throw badInput(field, `${field} is not a valid handle.`',
      'return name;\n  if (field) return name;\n  throw badInput(field, `${field} is not a valid handle.`',
    ],
    ['a handle is short', 'if (name.length <= 39 && TENANT_NAME', 'if (TENANT_NAME'],
    ['a handle is not of one character', '{1,38}$/', '{0,38}$/'],
    [
      'a name for people is in form',
      'return label;\n  throw badInput(field, `${field} is not a valid name.`',
      'return label;\n  if (field) return label;\n  throw badInput(field, `${field} is not a valid name.`',
    ],
    ['a name for people is not blank', "if (label !== '' && label", 'if (label'],
    ['a name for people is short', 'label.length <= 100 && ', ''],
    ['a name for people is printable', ' && !/\\p{C}/u.test(label)', ''],
  ]),
  ...guardsOf('code', 'src/tenancy/tenancy.ts', ACCESS, [
    [
      'a taken name of a tenant is told',
      "if (!tenant) throw new MercatoError('CONFLICT', 'The tenant name is taken.'",
      "if (!tenant && false) throw new MercatoError('CONFLICT', 'The tenant name is taken.'",
    ],
    ["the tenants of a user are the user's", 'where: { userId },', 'where: {},'],
    [
      "a membership is the user's",
      'tx.member.findUnique({ where: { tenantId_userId: { tenantId, userId } },',
      'tx.member.findFirst({ where: { tenantId },',
    ],
    [
      'a membership is of the tenant',
      'tx.member.findUnique({ where: { tenantId_userId: { tenantId, userId } }',
      'tx.member.findFirst({ where: { userId }',
    ],
  ]),
  ...guardsOf('code', 'src/usage/counters.ts', METERS, [
    ["a counter is the consumer's", 'where consumer_tenant_id = ${key.consumerTenantId}::uuid and listing_id', 'where listing_id'],
    ['a counter is of the listing', ' and listing_id = ${key.listingId}::uuid\n', '\n'],
    ['a counter is of the month', '\n       and period = mercato_period(mercato_now())\n       for', '\n       for'],
  ]),
  ...guardsOf('code', 'src/usage/leases.ts', METERS, [
    [
      "a lease is on the consumer's counter",
      'where consumer_tenant_id = ${counter.consumerTenantId}::uuid and listing_id',
      'where listing_id',
    ],
    ["what comes back comes to the consumer's counter", 'where c.consumer_tenant_id = k.consumer and c.listing_id', 'where c.listing_id'],
  ]),
  ...guardsOf('code', 'src/usage/rates.ts', METERS, [
    [
      "a rate is the consumer's",
      'secs from rate_limit\n     where consumer_tenant_id = ${key.consumerTenantId}::uuid and listing_id',
      'secs from rate_limit\n     where listing_id',
    ],
    [
      "requests come back to the consumer's rate",
      'x (requests, granted, taken_at, admitted)))\n     where consumer_tenant_id = ${key.consumerTenantId}::uuid and listing_id',
      'x (requests, granted, taken_at, admitted)))\n     where listing_id',
    ],
    [
      "requests are taken of the consumer's rate",
      'requests_per_minute = ${rate.requestsPerMinute}::int\n     where consumer_tenant_id = ${key.consumerTenantId}::uuid and listing_id',
      'requests_per_minute = ${rate.requestsPerMinute}::int\n     where listing_id',
    ],
  ]),
  ...guardsOf('code', 'src/usage/export.ts', 'database/export', [
    [
      "a page of an export ends by the tenant's records",
      'where consumer_tenant_id = ${tenantId}::uuid and created_at >= ${from} and created_at < ${to}',
      'where created_at >= ${from} and created_at < ${to}',
    ],
  ]),
  ...guardsOf('code', 'src/usage/limits.ts', ALONE, [
    ["a tenant's limits are counted", '.count({ where: { tenantId, removedAt: null } })', '.count({ where: { removedAt: null } })'],
    ['a removed limit leaves its place', '.count({ where: { tenantId, removedAt: null } })', '.count({ where: { tenantId } })'],
  ]),
  ...guardsOf('code', 'src/catalog/subscriptions.ts', ALONE, [
    ["subscriptions are the consumer's", 'where: { ...own(tenantId), ...(page', 'where: { ...(page'],
    ["a subscription that is looked at is the consumer's", 'where: { id, ...own(tenantId) }', 'where: { id }'],
    ["a subscription that is seen is the consumer's", 'return { consumerTenantId: tenantId, listing', 'return { listing'],
  ]),
  ...guardsOf('code', 'src/catalog/entitlements.ts', ALONE, [
    ['a model is called by who sees it', 'where: { handle: named.handle, ...visibleListing(tenantId) }', 'where: { handle: named.handle }'],
    ['a version is called by who sees it', 'where: { ...visible, number }', 'where: { modelId, number }'],
    [
      'what an alias names is called by who sees it',
      'where: { ...visible, aliases: { some: { name: alias ?? LIVE } } }',
      'where: { modelId, aliases: { some: { name: alias ?? LIVE } } }',
    ],
  ]),
  ...guardsOf('code', 'src/base/database.ts', DOORS, [
    [
      'the role of a tenant ends with its transaction',
      "set_config('role', 'mercato_tenant', true)",
      "set_config('role', 'mercato_tenant', false)",
    ],
    [
      'a tenant ends with its transaction where roles share a connection',
      ", set_config('mercato.tenant_id', ${id}, true)",
      ", set_config('mercato.tenant_id', ${id}, false)",
    ],
    [
      'the role of the system ends with its transaction',
      "set_config('role', 'mercato_system', true)",
      "set_config('role', 'mercato_system', false)",
    ],
  ]),
  {
    name: 'a tenant ends with its transaction where a connection has one role',
    kind: 'code',
    edits: [
      {
        file: 'src/base/database.ts',
        find: "else await tx.$executeRaw`select set_config('mercato.tenant_id', ${id}, true)`",
        put: "else await tx.$executeRaw`select set_config('mercato.tenant_id', ${id}, false)`",
      },
    ],
    tests: [`test/${DOORS}.test.ts`],
    postgres: true,
  },
];
