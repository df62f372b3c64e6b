import { type Guard, guardsOf } from '../guard.ts';

const LIMITS = 'database/limits';

const LIMITS_FILE = 'src/usage/limits.ts';
/** Either keeps a tenant from another's limit: what is read of it, and which row is written. */
const byItsTenant = (name: string, rest: string): Guard => ({
  name,
  kind: 'code',
  edits: [
    {
      file: LIMITS_FILE,
      find: 'where l.tenant_id = ${tenantId}::uuid and l.removed_at is null and',
      put: 'where l.removed_at is null and',
    },
    {
      file: LIMITS_FILE,
      find: `where id = \${id}::uuid and tenant_id = \${tenantId}::uuid ${rest}`,
      put: `where id = \${id}::uuid ${rest}`,
    },
  ],
  tests: ['test/database/without-walls.test.ts'],
  postgres: false,
});

export const usageChecks: Guard[] = [
  byItsTenant("a limit that is changed is the tenant's", 'and removed_at is null for no key update'),
  byItsTenant("a limit that is removed is the tenant's", 'and removed_at is null`;'),
  ...guardsOf('code', 'src/usage/alerts.ts', 'database/without-walls', [
    ["alerts are the tenant's", 'where a.tenant_id = ${tenantId}::uuid\n       and', 'where true\n       and'],
    ["an alert is the tenant's", 'where a.id = ${id}::uuid and a.tenant_id = ${tenantId}::uuid`', 'where a.id = ${id}::uuid`'],
    [
      "a cursor of alerts is the tenant's",
      'c.id = ${page.afterId}::uuid and c.tenant_id = ${tenantId}::uuid)',
      'c.id = ${page.afterId}::uuid)',
    ],
  ]),
  ...guardsOf('code', 'src/usage/export.ts', 'unit/forms', [
    [
      'an export has one of two formats',
      "if (format !== 'ndjson' && format !== 'csv')\n    throw badInput(",
      'if (false)\n    throw badInput(',
    ],
    [
      'an export is of instants',
      "if (instant === null || Number.isNaN(instant.getTime())) {\n    const expected = 'as 2026-11-01 or 2026-11-01T00:00:00Z';\n    throw badInput(",
      "if (false) {\n    const expected = '';\n    throw badInput(",
    ],
    ['an export checks its span', '  checkSpan(query);\n  const leave', '  const leave', 'database/export'],
    [
      'exports are bounded',
      "if (taken >= limit) throw new MercatoError('OVERLOADED'",
      "if (false) throw new MercatoError('OVERLOADED'",
      'database/export',
    ],
    [
      "a tenant's exports are bounded",
      'refuseWhereFull(taken, LIMITS.exportsPerTenant,',
      'refuseWhereFull(0, LIMITS.exportsPerTenant,',
      'database/export',
    ],
    [
      "a process's exports are bounded",
      'refuseWhereFull(this.#all, LIMITS.exports,',
      'refuseWhereFull(0, LIMITS.exports,',
      'database/export',
    ],
    ['an export that is over has no place', ".once('close', leave)", '', 'database/export'],
    [
      "an export is the tenant's",
      'where consumer_tenant_id = ${tenantId}::uuid and created_at >= ${from} and created_at <=',
      'where created_at >= ${from} and created_at <=',
      'database/export',
    ],
    ['an export has no record twice', 'new Date(last.createdAt.getTime() + 1)', 'new Date(last.createdAt.getTime())', 'database/usage'],
    ['an export ends', 'and created_at < ${to}\n', '\n', 'database/export'],
  ]),
  ...guardsOf('code', 'src/usage/report.ts', 'database/usage', [
    ['a report ends after it begins', 'if (from >= to) throw badInput', 'if (false) throw badInput'],
    [
      'a report is of a year at most',
      'if (to.getTime() - from.getTime() > DAYS_MAX * DAY_MS) {\n    throw badInput',
      'if (false) {\n    throw badInput',
    ],
    ["a report is the tenant's", 'where r.consumer_tenant_id = ${tenantId}::uuid', 'where true', 'database/without-walls'],
    ['a report counts no hour twice', ' and not (r.starts_at >= ${days[0]} and r.starts_at < ${days[1]})', ''],
  ]),
  ...guardsOf('code', 'src/usage/leases.ts', 'database/lease-life', [
    ['what a sweep takes of a burst does not come back', 'slots = 0, granted_units = 0 where', 'slots = 0 where', 'database/limit-windows'],
    ['a lease ends', 'where expires_at < mercato_now() order', 'where true order'],
    ['a lease that holds something is not dropped', ' and units = 0 and slots = 0 order', ' order'],
    ['a lease that holds units is not dropped', 'and units = 0 and slots = 0', 'and slots = 0'],
    ['a lease that holds places is not dropped', 'and units = 0 and slots = 0', 'and units = 0'],
    [
      'units of a swept lease do not come back',
      'if (!lease || lease.returns.includes(part.number)) return [];',
      'if (!lease) return [{ ...known.values().next().value, ...part } as never];',
    ],
    ['a return is made once', '|| lease.returns.includes(part.number)', '', 'database/returns'],
    ['what is left of a recalled lease is in flight', 'draining = l.draining or ${drain}', 'draining = l.draining'],
    [
      'what one process holds is not recalled from it',
      'and process_id <> ${processId}::uuid and not draining and units > 0',
      'and not draining and units > 0',
    ],
    ['what is in flight is not recalled', 'and not draining and units > 0', 'and units > 0'],
    ['what is empty is not recalled', 'and not draining and units > 0', 'and not draining'],
    ['what another listing holds is not recalled', 'and (${scope.listingId}::uuid is null or listing_id = ${scope.listingId}::uuid)', ''],
    [
      'what another consumer holds is not recalled',
      'where consumer_tenant_id = ${scope.consumerTenantId}::uuid\n         and (${scope',
      'where true\n         and (${scope',
    ],
    ['what comes back frees its limits', 'returned.filter(({ limited }) => limited),', '[],', LIMITS],
  ]),
  ...guardsOf('code', 'src/usage/limit-counters.ts', LIMITS, [
    ['what comes back can be worth more than a bigint', 'l.units::numeric * coalesce', 'l.units * coalesce', 'database/limits'],
    [
      'a window that is open keeps its counter',
      "< mercato_now() - interval '1 day'`",
      '< mercato_now() + make_interval(years => 1)`',
      'database/limits',
    ],
    ['a counter without an end goes with its limit', 'k.starts_at), l.removed_at) <', 'k.starts_at), null) <'],
    [
      "a call's limits are its tenant's",
      'where tenant_id = ${caller.consumerTenantId}::uuid and removed_at is null\n       and',
      'where removed_at is null\n       and',
    ],
    ['a removed limit holds no more', '::uuid and removed_at is null\n       and (subject', '::uuid\n       and (subject'],
    [
      "a call's limits are its listing's",
      'and (select s.listing_id from subscription s where s.id = subject_id) = ${caller.listingId}::uuid',
      '',
    ],
    [
      'a limit of a subscription is not shed by subscribing again',
      '(select s.listing_id from subscription s where s.id = subject_id) = ${caller.listingId}::uuid',
      "subject_id = (select s.id from subscription s where s.consumer_tenant_id = tenant_id and s.listing_id = ${caller.listingId}::uuid and s.state = 'ACTIVE')",
    ],
    ["a call's limits are its member's", "subject = 'MEMBER' and subject_id = ${caller.memberId}::uuid", "subject = 'MEMBER'"],
    ["a call's limits are its key's", "subject = 'API_KEY' and subject_id = ${caller.apiKeyId}::uuid", "subject = 'API_KEY'"],
    [
      'a limit counts its open window',
      ' and k.starts_at = mercato_window_start(l.window, l.burst_units is not null, ${first.at}::timestamptz)\n     order',
      '\n     order',
    ],
    [
      'what time gave back of a burst does not come back again',
      'b.idle + least(b.units - b.idle, greatest(0, b.granted - b.minutes * k.arrival_amount))',
      'b.units',
      'database/lease-life',
    ],
    [
      'what nobody used of a burst comes back whole',
      'coalesce(sum(units) filter (where not admitted), 0) idle',
      '0 idle',
      'database/lease-life',
    ],
    ['a soft limit admits all', 'if (!limit.hard) return any;', '', 'unit/limits'],
    [
      'a burst has an end',
      'const units = Math.floor(Number(limit.burstUnits) - limit.aheadUnits + 1e-6);',
      'const units = Number(limit.burstUnits);',
      'unit/limits',
    ],
    ['what is leased of a limit is taken', 'limit.amount - limit.used - limit.leased', 'limit.amount - limit.used', 'unit/limits'],
    ['what is used of a limit is taken', 'limit.amount - limit.used - limit.leased', 'limit.amount - limit.leased', 'unit/limits'],
    [
      'calls in flight are bounded',
      "if (limit.measure === 'CONCURRENCY') return { ...any, slots: Number(left) };",
      "if (limit.measure === 'CONCURRENCY') return any;",
      'unit/limits',
    ],
    [
      'units are bounded',
      "if (limit.measure === 'UNITS') return { ...any, units: Number(left) };",
      "if (limit.measure === 'UNITS') return any;",
      'unit/limits',
    ],
    ['spend is bounded', 'unitNanos === 0n ? any : { ...any, units: Number(free + left / unitNanos) }', 'any', 'unit/limits'],
    ['a grant takes of the limits', 'set leased = k.leased + case when k.arrival_at', 'set leased = k.leased + 0 * case when k.arrival_at'],
    ['a burst is taken', 'greatest(k.arrival_at, mercato_now()) + make_interval', 'k.arrival_at + 0 * make_interval'],
    [
      'a burst that was not used fills to the burst only',
      'greatest(k.arrival_at, mercato_now()) + make_interval',
      'k.arrival_at + make_interval',
      'database/limit-windows',
    ],
    [
      'what comes back of a burst is there again',
      'arrival_at = k.arrival_at - make_interval',
      'arrival_at = k.arrival_at - 0 * make_interval',
      'database/limit-windows',
    ],
    [
      'a limit tells at once of thresholds that are past',
      'if (made.length > 0) await tx.$executeRaw`select mercato_tell',
      'if (false) await tx.$executeRaw`select mercato_tell',
      'database/alerts',
    ],
    ['a limit waits for another process', 'bool_or(l.process_id <> ${processId}::uuid and not l.draining)', 'bool_or(false)'],
  ]),
  ...guardsOf('code', 'src/usage/limits.ts', LIMITS, [
    [
      "limits are the tenant's",
      'where l.tenant_id = ${tenantId}::uuid and l.removed_at is null and',
      'where l.removed_at is null and',
      'database/without-walls',
    ],
    ['a removed limit is not shown', 'and l.removed_at is null and (${id}', 'and (${id}', 'database/without-walls'],
    ['what is no limit is not changed', "if (!known) throw new MercatoError('NOT_FOUND');", '', 'database/without-walls'],
    [
      'a name that is taken is told',
      "if (isUniqueViolation(error)) throw new MercatoError('CONFLICT'",
      "if (false) throw new MercatoError('CONFLICT'",
    ],
    [
      'a limit with bursts keeps them',
      'if ((now.burstUnits === null) !== (known.burstUnits === null)) {\n          throw badInput',
      'if (false) {\n          throw badInput',
      'database/limit-windows',
    ],
    ['a changed limit is in form', 'checkForm({ ...known, ...now });', '', 'database/limit-windows'],
    ['a limit is removed once', "if (!view || removed === 0) throw new MercatoError('NOT_FOUND');", ''],
    [
      'every process knows of a new limit',
      "return { view, seq: await announcer.publish(tx, 'usage_limit', [tenantId]) };\n      });\n      await announcer.confirmed(seq);\n      return view;\n    } catch",
      'return { view, seq: 0n };\n      });\n      return view;\n    } catch',
    ],
    [
      'every process knows of a removed limit',
      "return { view, seq: await announcer.publish(tx, 'usage_limit', [tenantId]) };\n      });\n      await announcer.confirmed(seq);\n      return view;\n    },",
      'return { view, seq: 0n };\n      });\n      return view;\n    },',
    ],
    [
      "limited callers are the tenant's",
      "where tenant_id = ${tenantId}::uuid and removed_at is null and subject in ('MEMBER'",
      "where removed_at is null and subject in ('MEMBER'",
      'database/without-walls',
    ],
    ['a limit has a name', 'if (!NAME.test(name)) {\n    throw badInput', 'if (false) {\n    throw badInput', 'unit/limits'],
    [
      'no limit has the name of what a plan limits',
      'if (Object.values<string>(PLAN_NAMES).includes(name)) {\n    throw badInput',
      'if (false) {\n    throw badInput',
      'unit/limits',
    ],
    ['a limit that is renamed has a name', 'if (now.name !== known.name) checkName(now.name);', ''],
    ['a limit has a bounded amount', 'if (amount < 0n || amount > max) throw badInput', 'if (false) throw badInput', 'unit/limits'],
    [
      'a limit has a window as its measure wants',
      "if ((window === null) !== (measure === 'CONCURRENCY')) {\n    const expected = measure === 'CONCURRENCY' ? 'none' : 'MINUTE, HOUR, DAY or MONTH';\n    throw badInput",
      "if (false) {\n    const expected = '';\n    throw badInput",
      'unit/limits',
    ],
    [
      'a limit of calls in flight is hard',
      "if (!hard && measure === 'CONCURRENCY') throw badInput",
      'if (false) throw badInput',
      'unit/limits',
    ],
    [
      'only some limits have bursts',
      "if (measure !== 'UNITS' || window !== 'MINUTE' || !hard || amount < 1n) {\n      throw badInput",
      'if (false) {\n      throw badInput',
      'unit/limits',
    ],
    [
      'a burst is bounded',
      'if (burstUnits < 1n || burstUnits > LIMITS.unitsMax) {\n      throw badInput',
      'if (false) {\n      throw badInput',
      'unit/limits',
    ],
    [
      'bursts have no thresholds',
      'if (burstUnits !== null && percents.length > 0) {\n    throw badInput',
      'if (false) {\n    throw badInput',
      'unit/limits',
    ],
    [
      'calls in flight have one threshold',
      `if (measure === 'CONCURRENCY' && percents.some((percent) => percent !== 100)) {
    const message = 'Calls in flight have one threshold: 100, at which a call is refused.';
    throw badInput`,
      `if (false) {
    const message = '';
    throw badInput`,
      'unit/limits',
    ],
    [
      'thresholds are few, different and bounded',
      'if (percents.length > MAX.percents || new Set(percents).size < percents.length || !percents.every(isRight)) {\n    const expected = `at most ${MAX.percents} different whole numbers, 1 to ${MAX.percent}`;\n    throw badInput',
      "if (false) {\n    const expected = '';\n    throw badInput",
      'unit/limits',
    ],
    [
      'a limit of a tenant is of the current one',
      'if (subjectId === null || subjectId === tenantId) return tenantId;\n    throw badInput',
      'return tenantId;\n    throw badInput',
    ],
    [
      'a limit has a subject',
      "if (subjectId === null) throw badInput('subjectId', `subjectId must",
      "if (false) throw badInput('subjectId', `subjectId must",
    ],
    [
      "a limited subscription is the tenant's",
      'where id = ${subjectId}::uuid and consumer_tenant_id = ${tenantId}::uuid and state',
      'where id = ${subjectId}::uuid and state',
      'database/without-walls',
    ],
    [
      'a limited subscription is active',
      "and consumer_tenant_id = ${tenantId}::uuid and state = 'ACTIVE'`",
      'and consumer_tenant_id = ${tenantId}::uuid`',
      'database/without-walls',
    ],
    [
      "a limited member is the tenant's",
      'where user_id = ${subjectId}::uuid and tenant_id = ${tenantId}::uuid`',
      'where user_id = ${subjectId}::uuid`',
      'database/without-walls',
    ],
    [
      "a limited key is the tenant's",
      'where id = ${subjectId}::uuid and tenant_id = ${tenantId}::uuid and revoked_at is null`',
      'where id = ${subjectId}::uuid and revoked_at is null`',
      'database/without-walls',
    ],
    [
      'a limited key is not revoked',
      'and tenant_id = ${tenantId}::uuid and revoked_at is null`',
      'and tenant_id = ${tenantId}::uuid`',
      'database/without-walls',
    ],
    [
      'a limit of what does not exist is refused',
      "if (!row?.found) throw new MercatoError('NOT_FOUND'",
      "if (false) throw new MercatoError('NOT_FOUND'",
    ],
    [
      "a tenant's limits are bounded",
      'if (count >= MAX.perTenant) {\n    throw new MercatoError',
      'if (false) {\n    throw new MercatoError',
      'database/locks',
    ],
  ]),
  ...guardsOf('code', 'src/usage/rates.ts', 'database/usage', [
    ['a rate has a burst', 'Math.floor(rate.burst - ahead / secs + ROUNDING)', 'Math.floor(rate.burst)'],
    ['what is taken of a rate moves it', 'await moveArrival(tx, key, rate, granted);', ''],
    ['a rate fills to the burst only', 'greatest(known.arrival_at, mercato_now())', 'known.arrival_at'],
    [
      'a faster plan lifts what a slower one refuses',
      'where known.requests_per_minute < excluded.requests_per_minute',
      'where known.requests_per_minute < 0 * excluded.requests_per_minute',
    ],
    [
      'what a faster plan took runs off as fast under a slower one',
      'where known.requests_per_minute < excluded.requests_per_minute',
      'where known.requests_per_minute <> excluded.requests_per_minute',
    ],
    [
      'requests taken under another plan count as requests',
      '::float8 * (known.requests_per_minute',
      '::float8 * 0 * (known.requests_per_minute',
    ],
    [
      'requests of another plan come back as requests',
      'make_interval(secs => 60::float8 / requests_per_minute * (',
      'make_interval(secs => 60::float8 / ${rate.requestsPerMinute}::int * (',
    ],
    [
      'what ran off under a faster plan does not come back',
      'greatest(requests_per_minute, ${rate.requestsPerMinute}::float8)',
      'requests_per_minute',
    ],
    ['a rate promises no millisecond too many', '(rate.burst - 1 + ROUNDING)', '(rate.burst - 1)'],
    [
      'what comes back to a rate is there again',
      'set arrival_at = arrival_at - make_interval',
      'set arrival_at = arrival_at - 0 * make_interval',
    ],
    ['what time gave back of a rate does not come back again', 'case when admitted then least', 'case when false then least'],
    ['what nobody used of a rate comes back whole', 'case when admitted then least', 'case when true then least', 'database/lease-life'],
    [
      "a rate is a consumer's",
      'secs from rate_limit\n     where consumer_tenant_id = ${key.consumerTenantId}::uuid and listing_id',
      'secs from rate_limit\n     where listing_id',
      'database/usage',
    ],
  ]),
  ...guardsOf('code', 'src/usage/quotas.ts', 'database/without-walls', [
    ["a quota is the tenant's", 'on c.consumer_tenant_id = mercato_tenant_id() and c.listing_id', 'on c.listing_id'],
  ]),
  ...guardsOf('code', 'src/usage/usage.ts', 'api/limits database/limits', [
    [
      'a caller sees the limits of no other key or member',
      "limits.filter(({ subject, subjectId }) => subject === 'SUBSCRIPTION' || [tenantId, memberId, apiKeyId].includes(subjectId))",
      'limits',
    ],
  ]),
  ...guardsOf('code', 'src/usage/resolvers.ts', 'unit/scopes', [
    [
      'the limits of a viewer are for who may predict',
      "caller.scopes.has('model:predict') ? ctx.read",
      'caller.scopes.size > 0 ? ctx.read',
      'api/limits',
    ],
    [
      'usage asks for its scope',
      "usage: (_, { from, to, groupBy }, ctx) => {\n      const { tenantId } = authorize(ctx.principal, 'usage:read');",
      'usage: (_, { from, to, groupBy }, ctx) => {\n      const { tenantId } = authorize(ctx.principal, null);',
    ],
    [
      'usageLimits asks for its scope',
      "usageLimits: (_, __, ctx) => {\n      const { tenantId } = authorize(ctx.principal, 'usage:read');",
      'usageLimits: (_, __, ctx) => {\n      const { tenantId } = authorize(ctx.principal, null);',
    ],
    [
      'usageAlerts asks for its scope',
      "usageAlerts: async (_, args, ctx) => {\n      const { tenantId } = authorize(ctx.principal, 'usage:read');",
      'usageAlerts: async (_, args, ctx) => {\n      const { tenantId } = authorize(ctx.principal, null);',
    ],
    [
      'createUsageLimit asks for its scope',
      "createUsageLimit: async (_, { input }, ctx) => {\n      const { tenantId } = authorize(ctx.principal, 'billing:write');",
      'createUsageLimit: async (_, { input }, ctx) => {\n      const { tenantId } = authorize(ctx.principal, null);',
    ],
    [
      'updateUsageLimit asks for its scope',
      "updateUsageLimit: async (_, { input }, ctx) => {\n      const { tenantId } = authorize(ctx.principal, 'billing:write');",
      'updateUsageLimit: async (_, { input }, ctx) => {\n      const { tenantId } = authorize(ctx.principal, null);',
    ],
    [
      'deleteUsageLimit asks for its scope',
      "deleteUsageLimit: async (_, { input }, ctx) => {\n      const { tenantId } = authorize(ctx.principal, 'billing:write');",
      'deleteUsageLimit: async (_, { input }, ctx) => {\n      const { tenantId } = authorize(ctx.principal, null);',
    ],
    [
      "a limit's amount is a number",
      'if (/^\\d{1,19}$/.test(text)) return BigInt(text);\n  throw badInput',
      'return BigInt(text);\n  throw badInput',
      'unit/forms',
    ],
    [
      "a limit's subject is an id of its type",
      'if (parsed?.type === type) return parsed.id;\n  throw badInput',
      "return parsed?.id ?? '';\n  throw badInput",
      'unit/forms',
    ],
    [
      'a limit is named by an id of its type',
      "if (parsed?.type !== 'UsageLimit') throw new MercatoError('NOT_FOUND');\n  return parsed.id;",
      "return parsed?.id ?? '';",
      'unit/forms',
    ],
    ['what is left is not below nothing', 'return left > 0n ? left : 0n;', 'return left;', 'unit/forms'],
  ]),
];
