import { type Guard, guardsOf } from '../guard.ts';

const INIT = 'prisma/migrations/20261123000000_init/migration.sql';
const LIMITS = 'prisma/migrations/20261126000100_limits/migration.sql';
const SETTLED = 'prisma/migrations/20261127010000_settled_limits/migration.sql';
const LEDGER = 'prisma/migrations/20261126000200_ledger/migration.sql';
const LOCKS = 'database/locks';
const ORDER = 'database/lock-order';
const SETTLEMENT = 'database/settlement-races';

const RATE_MADE = `
        on conflict (consumer_tenant_id, listing_id) do update set arrival_at = \${arrivalAt(rate)}, requests_per_minute = excluded.requests_per_minute
     where known.requests_per_minute < excluded.requests_per_minute\`;`;

const usage: Guard[] = [
  ...guardsOf('lock', 'src/usage/counters.ts', LOCKS, [
    ['a counter is locked', `mercato_period(mercato_now())\n       for update\``, 'mercato_period(mercato_now())`'],
    [
      'no counter is made while a month is closed',
      "await tx.$executeRaw`select pg_advisory_xact_lock_shared(hashtext('mercato.close_period'))`;",
      '',
      'database/period-races',
    ],
    ['a counter is made once', `mercato_period(mercato_now()))\n        on conflict do nothing\``, 'mercato_period(mercato_now()))`'],
    ['counters are locked', `\n       for update of c\``, '`'],
    ['counters are locked by key', `\n     order by c.consumer_tenant_id, c.listing_id, c.period`, '', ORDER],
  ]),
  ...guardsOf('lock', 'src/usage/leases.ts', LOCKS, [
    [
      'leases whose units come back are locked',
      'returns, units, slots\n      from lease where id = any(${returned.map((r) => r.leaseId)}::uuid[]) order by id for update`',
      'returns, units, slots\n      from lease where id = any(${returned.map((r) => r.leaseId)}::uuid[])`',
    ],
    [
      'leases whose units come back are locked by key',
      '${returned.map((r) => r.leaseId)}::uuid[]) order by id for',
      '${returned.map((r) => r.leaseId)}::uuid[]) for',
      ORDER,
    ],
    ['leases that end are locked', ' for update skip locked', ''],
    ['leases that another sweeps are not waited for', 'for update skip locked', 'for update'],
    [
      'leases are renewed by key',
      'where id = any(${leaseIds}::uuid[]) order by id for update)\n    update',
      'where id = any(${leaseIds}::uuid[]))\n    update',
      ORDER,
    ],
    ['leases are dropped by key', 'slots = 0 order by id for update)', 'slots = 0)', ORDER],
  ]),
  ...guardsOf('lock', 'src/usage/limit-counters.ts', LOCKS, [
    ["a limit's counter is made once", 'order by l.id\n        on conflict do nothing returning', 'order by l.id returning'],
    ["limits' counters are locked", 'order by k.id for update of k`', 'order by k.id`'],
    ['what comes back to limits locks their counters by key', ' order by k.id for update)', ')', ORDER],
  ]),
  ...guardsOf('lock', 'src/usage/limits.ts', LOCKS, [
    ['a limit that is changed is locked', 'removed_at is null for no key update`', 'removed_at is null`'],
    [
      "a tenant's number of limits is counted under a lock",
      "await tx.$executeRaw`select pg_advisory_xact_lock(hashtext('mercato.limits'), hashtext(${tenantId}))`;",
      '',
    ],
  ]),
  ...guardsOf('lock', 'src/usage/rates.ts', LOCKS, [
    ['a rate is made once', RATE_MADE, '`;'],
    ['a rate is locked', RATE_MADE, ' on conflict do nothing`;'],
  ]),
];

const billing: Guard[] = [
  ...guardsOf('lock', 'src/billing/accounts.ts', LOCKS, [
    ['an account is made once', '${currency})\n        on conflict do nothing`', '${currency})`'],
    ['accounts are locked', 'any(${ids}::uuid[]) order by id for update`', 'any(${ids}::uuid[]) order by id`'],
    ['accounts are locked by key', 'any(${ids}::uuid[]) order by id for', 'any(${ids}::uuid[]) for', ORDER],
    ['accounts whose holds change are locked by key', ' order by a.id for update of a', '', ORDER],
  ]),
  ...guardsOf('lock', 'src/billing/transfers.ts', LOCKS, [
    [
      'a transfer is written once',
      'mercato_now()) instant) n\n        on conflict do nothing',
      'mercato_now()) instant) n\n       ',
      'database/ledger',
    ],
    ['a pending transfer expires once', 'limit 500\n        on conflict do nothing', 'limit 500\n       '],
  ]),
];

const access: Guard[] = [
  ...guardsOf('lock', 'src/access/sessions.ts', 'database/access-races', [
    ['a session that is refreshed is locked', '\n    for share of s`', '`'],
    ['a session that is switched is locked', 'mercato_now()\n    for update`', 'mercato_now()`'],
  ]),
  ...guardsOf('lock', 'src/access/api-keys.ts', 'database/access-races', [
    [
      "a tenant's number of keys is counted under a lock",
      "await tx.$executeRaw`select pg_advisory_xact_lock(hashtext('mercato.api_keys'), hashtext(${tenantId}))`;",
      '',
    ],
  ]),
  ...guardsOf('lock', 'src/access/key-uses.ts', 'database/access-keys', [
    [
      'the last use of a key is one row',
      'on conflict (api_key_id) do update set last_used_at = greatest(api_key_use.last_used_at, excluded.last_used_at)',
      '',
    ],
    ['the last use of a key does not go back', 'greatest(api_key_use.last_used_at, excluded.last_used_at)', 'excluded.last_used_at'],
  ]),
  ...guardsOf('lock', 'src/tenancy/tenancy.ts', 'database/access-races', [
    ['a tenant name is taken once', 'on conflict (name) do nothing', ''],
    ['an e-mail is taken once', 'on conflict (email) do nothing', ''],
  ]),
  ...guardsOf('lock', 'src/base/idempotency.ts', 'database/access-keys', [
    ["a mutation's key is claimed once", '${id}::uuid) on conflict do nothing`', '${id}::uuid)`'],
  ]),
];

const prediction: Guard[] = [
  ...guardsOf('lock', 'src/prediction/replays.ts', LOCKS, [
    ['answers that expire are locked', ' for update skip locked', ''],
    ['answers that another deletes are not waited for', 'for update skip locked', 'for update'],
  ]),
  ...guardsOf('lock', 'src/prediction/jobs.ts', 'database/jobs', [
    [
      'jobs are fetched by one at a time',
      "if (sql.includes('SKIP LOCKED')) await tx.$executeRaw`select pg_advisory_xact_lock(hashtext('mercato.jobs'))`;",
      '',
    ],
  ]),
  ...guardsOf('lock', 'src/catalog/versions.ts', 'database/checks', [
    [
      "a tenant's versions that wait for their check are counted under a lock",
      "await tx.$executeRaw`select pg_advisory_xact_lock(hashtext('mercato.open_versions'), hashtext(${tenantId}))`;",
      '',
    ],
  ]),
];

const functions: Guard[] = [
  ...guardsOf('lock', INIT, LOCKS, [
    ['partitions are made by one at a time', "PERFORM pg_advisory_xact_lock(hashtext('mercato.partitions'));", ''],
    ['invalidations are numbered in the order of commits', "PERFORM pg_advisory_xact_lock(hashtext('mercato.invalidation'));", ''],
  ]),
  ...guardsOf('lock', SETTLED, SETTLEMENT, [
    ["a settlement locks its limits' counters", 'FROM unnest(given) c) ORDER BY k.id FOR UPDATE', 'FROM unnest(given) c) ORDER BY k.id'],
    ["a settlement locks its limits' counters by key", 'FROM unnest(given) c) ORDER BY k.id FOR', 'FROM unnest(given) c) FOR'],
  ]),
  ...guardsOf('lock', LIMITS, SETTLEMENT, [
    ['a settlement locks its keys', 'ORDER BY k.id FOR SHARE', 'ORDER BY k.id'],
    ['a settlement locks its keys by key', 'mercato_now())\n     ORDER BY k.id FOR', 'mercato_now())\n     FOR'],
    ['a settlement locks its leases', 'ORDER BY l.id FOR UPDATE', 'ORDER BY l.id'],
    ['a settlement locks its leases by key', 'ORDER BY l.id FOR', 'FOR'],
    ['a settlement locks its counters', 'u.listing_id, u.period FOR UPDATE', 'u.listing_id, u.period'],
    ['a settlement locks its counters by key', 'ORDER BY u.consumer_tenant_id, u.listing_id, u.period FOR', 'FOR'],
    ['a settlement locks its accounts by key', ' ORDER BY a.id FOR UPDATE', ''],
    ["a settlement's key is claimed once", 'ON CONFLICT DO NOTHING RETURNING record_id', 'RETURNING record_id', 'database/settlement'],
    [
      'a rollup is added to',
      `ON CONFLICT (consumer_tenant_id, grain, starts_at, listing_id, subscription_id, caller_id) DO UPDATE
       SET predictions = u.predictions + excluded.predictions, units = u.units + excluded.units,
           compute_micros = u.compute_micros + excluded.compute_micros, amount_nanos = u.amount_nanos + excluded.amount_nanos`,
      '',
      'database/settlement',
    ],
    [
      'a charge is added to',
      `ON CONFLICT (subscription_id, period) DO UPDATE
       SET amount_nanos = s.amount_nanos + excluded.amount_nanos,
           commission_nanos = div((s.amount_nanos + excluded.amount_nanos) * s.commission_bps, 10000)`,
      '',
      'database/settlement',
    ],
  ]),
  ...guardsOf('lock', LEDGER, 'database/period-races', [
    ['a month is closed by one at a time', "PERFORM pg_advisory_xact_lock(hashtext('mercato.close_period'));", '', LOCKS],
    ['a closing locks the counters', 'ORDER BY u.consumer_tenant_id, u.listing_id FOR UPDATE;', ';'],
    ['a closing locks the counters by key', 'ORDER BY u.consumer_tenant_id, u.listing_id FOR UPDATE', 'FOR UPDATE', ORDER],
    ['a closing locks the transfers', 'LOCK TABLE transfer IN SHARE ROW EXCLUSIVE MODE;', ''],
    ['a closing gives up a long wait', " SET lock_timeout = '2s'", '', 'database/walls'],
  ]),
];

/** Either keeps an alert from being told twice: that it is of the call that crosses the threshold, or that its row is there. */
const alerts: Guard = {
  name: 'an alert is told once',
  kind: 'lock',
  edits: [
    {
      file: 'prisma/migrations/20261127030100_daily_alerts/migration.sql',
      find: 'ON CONFLICT DO NOTHING\n',
      put: '',
    },
  ],
  tests: ['test/database/alerts.test.ts'],
  postgres: true,
};

export const locks: Guard[] = [alerts, ...usage, ...billing, ...access, ...prediction, ...functions];
