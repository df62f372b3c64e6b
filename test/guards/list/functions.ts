import { type Guard, guardsOf } from '../guard.ts';

const INIT = 'prisma/migrations/20261123000000_init/migration.sql';
const SETTLE = 'prisma/migrations/20261123000200_settle/migration.sql';
const LIMITS = 'prisma/migrations/20261126000100_limits/migration.sql';
const DAILY = 'prisma/migrations/20261127030100_daily_alerts/migration.sql';
const WIDE_PRODUCTS = 'prisma/migrations/20261127040000_wide_products/migration.sql';
const SETTLED = 'prisma/migrations/20261127010000_settled_limits/migration.sql';
const LISTING_LIMITS = 'prisma/migrations/20261127030000_listing_limits/migration.sql';
const LIMIT_CHANGES = 'prisma/migrations/20261126000700_limit_changes/migration.sql';
const LEDGER = 'prisma/migrations/20261126000200_ledger/migration.sql';

const settlement: Guard[] = [
  ...guardsOf('function', SETTLE, 'database/settlement', [
    ['free units cost nothing', 'greatest(0, units - coalesce(free_units, 0))', '(units - coalesce(free_units, 0))'],
  ]),
  ...guardsOf('function', LIMITS, 'database/settlement', [
    ['a revoked key bills nothing', 'k.revoked_at IS NULL AND (k.expires_at', '(k.expires_at'],
    ['an expired key bills nothing', ' AND (k.expires_at IS NULL OR k.expires_at > mercato_now())', ''],
    [
      'a call of an invalid key claims nothing',
      'c.key IS NOT NULL AND (c.api_key_id IS NULL OR c.api_key_id = ANY (valid))\n       ORDER',
      'c.key IS NOT NULL\n       ORDER',
    ],
    [
      'an answer is kept for a call that claimed its key',
      'FROM unnest(given) c JOIN won ON won.record_id = c.id',
      'FROM unnest(given) c WHERE c.key IS NOT NULL',
    ],
    ['an answer is kept for its hours', 'make_interval(hours => replay_hours)', 'make_interval(hours => 10 * replay_hours)'],
    [
      'a call whose lease was swept needs room in the quota',
      `HAVING u.used_units IS NULL OR u.used_units + u.leased_units + sum(c.units) > u.quota_units
  ) THEN
    RAISE EXCEPTION 'a swept lease left no room' USING ERRCODE = 'MC001';`,
      'HAVING false) THEN NULL;',
    ],
    [
      'a call of an invalid key is not billed',
      'WHERE (c.api_key_id IS NULL OR c.api_key_id = ANY (valid)) AND (c.key IS',
      'WHERE (c.key IS',
    ],
    ['a call that lost its key is not billed', ' AND (c.key IS NULL OR c.id = ANY (claimed))', ''],
    [
      'each call is priced after those before it',
      `+ coalesce(sum(c.units) OVER (PARTITION BY c.consumer_tenant_id, c.listing_id, c.period
                                                      ORDER BY c.ord ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) n`,
      'n',
    ],
    ['a free call has no charge', 'CASE WHEN p.amount > 0 THEN p.charge_id END', 'p.charge_id'],
    ['what is billed leaves the lease', 'UPDATE lease l SET units = l.units - s.units', 'UPDATE lease l SET units = l.units'],
    ['what a sweep returned is not returned again', 'coalesce(sum(p.units) FILTER (WHERE p.leased), 0) returned', 'sum(p.units) returned'],
    ['what is billed is used', 'SET used_units = u.used_units + m.units, leased', 'SET used_units = u.used_units, leased'],
    ['what is billed is leased no more', 'leased_units = u.leased_units - m.returned', 'leased_units = u.leased_units'],
    ['what is billed is held no more', 'UNION ALL SELECT h.wallet_id, 0, h.nanos FROM held h', ''],
    ['a hold follows what is used', '+ mercato_price(m.used_units, v.unit_price_nanos, v.free_units) nanos', 'nanos'],
    ['calls of nothing are not charged', 'FROM priced p WHERE p.amount > 0 GROUP BY', 'FROM priced p GROUP BY'],
    [
      'commission is of the sum, less what was taken',
      ' - div((s.amount_nanos - d.amount) * s.commission_bps, 10000) commission',
      ' commission',
    ],
    ['no commission of nothing is posted', 'FROM posted p WHERE p.commission > 0', 'FROM posted p'],
    [
      'the consumer does not see the commission',
      'p.period, NULL, p.publisher_tenant_id',
      'p.period, p.consumer_tenant_id, p.publisher_tenant_id',
      'database/credit',
    ],
    ['the consumer pays', 'SELECT p.wallet_id, -p.amount, 0::numeric', 'SELECT p.wallet_id, 0::numeric, 0::numeric'],
    ['the publisher gets the rest', 'SELECT p.payable_id, p.amount - p.commission, 0', 'SELECT p.payable_id, p.amount, 0'],
    ['the marketplace gets its commission', 'UNION ALL SELECT p.revenue_id, p.commission, 0 FROM posted p', ''],
    ['a refused key is told from a lost one', "THEN 'LOST' ELSE 'REVOKED' END", "THEN 'LOST' ELSE 'LOST' END"],
  ]),
];

const limits: Guard[] = guardsOf('function', LIMITS, 'database/limit-windows', [
  ['a settlement asks the limits', 'IF limited THEN\n    PERFORM mercato_lock_limits(given, present);', 'IF false THEN'],
  ['a settlement counts for the limits', 'IF limited THEN\n    PERFORM mercato_count_limits(given, present);', 'IF false THEN'],
  [
    'what a limit is about does not change',
    `RAISE EXCEPTION 'what usage_limit % is about is immutable', OLD.id USING ERRCODE = 'integrity_constraint_violation';`,
    'NULL;',
    'database/constraints',
  ],
  ['a limit that was removed does not change', 'OR OLD.removed_at IS NOT NULL THEN', 'THEN', 'database/constraints'],
]);

const usedBefore: Guard[] = guardsOf('function', LISTING_LIMITS, 'database/limit-windows', [
  ["records before a limit are its tenant's", 'WHERE r.consumer_tenant_id = "limit".tenant_id AND r.created_at', 'WHERE r.created_at'],
  ["rollups before a limit are its tenant's", 'WHERE r.consumer_tenant_id = "limit".tenant_id AND r.grain', 'WHERE r.grain'],
  ['rollups before a limit are counted once', " AND r.grain = 'HOUR' AND r.starts_at", ' AND r.starts_at'],
  ["records before a limit are its window's", 'AND r.created_at >= starts_at\n', '\n'],
  ["rollups before a limit are its window's", 'AND r.starts_at >= mercato_used_before.starts_at\n', '\n'],
  [
    "records before a limit are its listing's",
    `THEN true WHEN 'SUBSCRIPTION' THEN r.listing_id = of_listing
             WHEN 'API_KEY' THEN r.api_key_id`,
    `THEN true WHEN 'SUBSCRIPTION' THEN true
             WHEN 'API_KEY' THEN r.api_key_id`,
  ],
  [
    "rollups before a limit are its listing's",
    `THEN true WHEN 'SUBSCRIPTION' THEN r.listing_id = of_listing
             WHEN 'API_KEY' THEN r.caller_id`,
    `THEN true WHEN 'SUBSCRIPTION' THEN true
             WHEN 'API_KEY' THEN r.caller_id`,
  ],
  ["records before a limit are its key's", `WHEN 'API_KEY' THEN r.api_key_id = "limit".subject_id`, `WHEN 'API_KEY' THEN true`],
  ["rollups before a limit are its key's", `WHEN 'API_KEY' THEN r.caller_id = "limit".subject_id`, `WHEN 'API_KEY' THEN true`],
  ["records before a limit are its member's", 'ELSE r.user_id = "limit".subject_id OR', 'ELSE true OR'],
  ["rollups before a limit are its member's", 'ELSE r.caller_id = "limit".subject_id OR', 'ELSE true OR'],
  [
    "records before a limit are of any subscription's",
    `WHEN 'SUBSCRIPTION' THEN r.listing_id = of_listing
             WHEN 'API_KEY' THEN r.api_key_id`,
    `WHEN 'SUBSCRIPTION' THEN r.subscription_id = "limit".subject_id
             WHEN 'API_KEY' THEN r.api_key_id`,
  ],
  [
    "rollups before a limit are of any subscription's",
    `WHEN 'SUBSCRIPTION' THEN r.listing_id = of_listing
             WHEN 'API_KEY' THEN r.caller_id`,
    `WHEN 'SUBSCRIPTION' THEN r.subscription_id = "limit".subject_id
             WHEN 'API_KEY' THEN r.caller_id`,
  ],
]);

const spend: Guard[] = guardsOf('function', SETTLED, 'database/limit-windows', [
  [
    'a call whose lease was swept needs room in its limits',
    `IF full_limit IS NOT NULL THEN
    RAISE EXCEPTION 'a swept lease left no room in a limit' USING ERRCODE = 'MC002', DETAIL = full_limit;`,
    'IF false THEN NULL;',
  ],
  ['a soft limit refuses no call whose lease was swept', 'k.limit_id AND l.hard AND', 'k.limit_id AND'],
  ['a limit that was removed refuses no call whose lease was swept', 'AND l.hard AND l.removed_at IS NULL\n', 'AND l.hard\n'],
  ['what is leased needs no second room', 'WHERE NOT c.lease_id = ANY (present) AND k.measure', 'WHERE k.measure'],
  [
    'calls in flight and spend are not added up as units',
    "AND k.measure = 'UNITS' AND k.arrival_at IS NULL\n",
    'AND k.arrival_at IS NULL\n',
  ],
  ['bursts are not added up', "AND k.measure = 'UNITS' AND k.arrival_at IS NULL\n", "AND k.measure = 'UNITS'\n"],
  ['what others lease of a limit is taken', 'HAVING k.used + k.leased + sum(', 'HAVING k.used + sum(', 'database/settlement-races'],
]);

const told: Guard[] = guardsOf('function', DAILY, 'database/alerts', [
  [
    'limits of minutes and hours tell once a day',
    "WHEN l.window IN ('MINUTE', 'HOUR') THEN to_char(k.starts_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') ELSE",
    'ELSE',
  ],
  ['limits of minutes and hours tell again the next day', "to_char(k.starts_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')", "'today'"],
  ['what was told is not told again', 'ON CONFLICT DO NOTHING', 'ON CONFLICT (counter_id, percent, amount, day) DO NOTHING'],
  ['an alert that is not old stays', "created_at < mercato_now() - interval '400 days'", "created_at < mercato_now() - interval '1 day'"],
  ['an old alert goes', "created_at < mercato_now() - interval '400 days'", 'false'],
  ['an old alert may go', ` WHEN (OLD."created_at" >= mercato_now() - interval '400 days')`, ''],
  ['an alert is of a limit in force', 'AND l.removed_at IS NULL\n', '\n', 'database/limit-windows'],
  ['an alert is of something used', 'ELSE k.used > 0 AND', 'ELSE'],
  ['an alert is of a threshold that is reached', 'k.used * 100 >= l.amount::numeric * p.percent', 'true'],
  ['a refusal by calls in flight is told of each day', "to_char(mercato_now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')", "'today'"],
]);

const counted: Guard[] = guardsOf('function', WIDE_PRODUCTS, 'database/limit-windows', [
  ['a refusal counts the free units that are left', 'greatest(0, n.unused - u.leased_units)::text', "'0'", 'database/settlement'],
  ['a refusal counts no free unit that others lease as left now', 'n.unused - u.leased_units', 'n.unused', 'database/settlement'],
  ['a refusal counts the free units that others lease', 'least(n.unused, u.leased_units)::text', "'0'", 'database/settlement'],
  ['a refusal counts the free units without its call', 'u.used_units - c.units', 'u.used_units', 'database/settlement'],
  ['a limit that was removed refuses nothing for its cost', 'l.hard AND l.removed_at IS NULL AND c.more', 'l.hard AND c.more'],
  ['units of a swept lease are not returned again', 'coalesce(sum(b.units) FILTER (WHERE b.leased), 0)', 'sum(b.units)'],
  ["a limit's counter counts", "SET used = k.used + CASE k.measure WHEN 'UNITS' THEN m.units ELSE m.nanos END,", 'SET used = k.used,'],
  [
    'what is counted is leased no more',
    "leased = k.leased - CASE k.measure WHEN 'UNITS' THEN m.leased_units ELSE m.leased_nanos END",
    'leased = k.leased',
  ],
  [
    'calls in flight are not counted',
    "AND k.measure <> 'CONCURRENCY' AND k.arrival_at IS NULL\n    RETURNING",
    'AND k.arrival_at IS NULL\n    RETURNING',
  ],
  [
    'bursts are not counted',
    "k.measure <> 'CONCURRENCY' AND k.arrival_at IS NULL\n    RETURNING",
    "k.measure <> 'CONCURRENCY'\n    RETURNING",
  ],
  ['what a lease can cost is no bigint', 'l.units::numeric', 'l.units', 'database/limits'],
  ['what is billed is held of a limit no more', 'greatest(0, l.nanos - b.nanos)', 'l.nanos'],
  [
    'a lease holds what its rest can cost',
    'least(greatest(0, l.nanos - b.nanos), l.units::numeric * coalesce(v.unit_price_nanos, 0))',
    'greatest(0, l.nanos - b.nanos)',
  ],
  [
    'a hard limit of spend has room for what a call costs',
    "RAISE EXCEPTION 'no room in a limit for what the call costs' USING ERRCODE = 'MC002', DETAIL = (full_limit::jsonb || free_units)::text;",
    'NULL;',
  ],
  ['a soft limit of spend refuses nothing that was settled', 'WHERE l.hard AND l.removed', 'WHERE l.removed'],
  ['what a lease held needs no second room', 'AND c.more AND c.used', 'AND c.used'],
  ['a refusal tells of what is used without its call', 'c.used - c.nanos, c.leased', 'c.used, c.leased'],
  ['a settlement tells of thresholds', 'PERFORM mercato_tell_thresholds(changed);', '', 'database/alerts'],
]);

const limitChanges: Guard[] = guardsOf('function', LIMIT_CHANGES, 'database/limit-windows', [
  ['a change tells of thresholds', 'PERFORM mercato_tell_thresholds(ARRAY[open_counter]);', '', 'database/alerts'],
  [
    'a burst goes on at the new rate',
    "greatest('0', k.arrival_at - mercato_now()) * (k.arrival_amount::float8 / NEW.amount)",
    '(k.arrival_at - mercato_now())',
  ],
  [
    'a change waits for what is counted',
    'k.starts_at = mercato_window_start(NEW.window, NEW.burst_units IS NOT NULL, mercato_now()) FOR UPDATE;',
    'k.starts_at = mercato_window_start(NEW.window, NEW.burst_units IS NOT NULL, mercato_now());',
    'database/settlement-races',
  ],
]);

const closed = "RAISE EXCEPTION 'the period % is closed', NEW.period USING ERRCODE = 'MC003';";
const ledger: Guard[] = [
  ...guardsOf('function', LEDGER, 'database/ledger-checks', [
    ['only what is pending is resolved', "IF base.phase IS DISTINCT FROM 'PENDING'\n       OR (NEW.kind", 'IF (NEW.kind'],
    [
      'a resolution is between the same accounts, of the same kind',
      `OR (NEW.kind, NEW.debit_account_id, NEW.credit_account_id, NEW.currency)
          IS DISTINCT FROM (base.kind, base.debit_account_id, base.credit_account_id, base.currency)`,
      '',
    ],
    ['no more is posted than is pending', 'OR NEW.amount_nanos > base.amount_nanos OR (NEW.phase', 'OR (NEW.phase'],
    ['what releases releases all', " OR (NEW.phase <> 'POST_PENDING' AND NEW.amount_nanos <> base.amount_nanos)", ''],
    [
      'what resolves is refused otherwise',
      "RAISE EXCEPTION 'transfer % does not resolve %', NEW.id, NEW.pending_id USING ERRCODE = 'integrity_constraint_violation';",
      'NULL;',
    ],
    ['only what was posted is reversed', "OR base.phase NOT IN ('POSTED', 'POST_PENDING')", ''],
    ['no reversal is reversed', " OR base.kind = 'REVERSAL'\n", '\n'],
    [
      'a reversal is between the same accounts, of the whole amount',
      `OR (NEW.debit_account_id, NEW.credit_account_id, NEW.currency, NEW.amount_nanos)
           IS DISTINCT FROM (base.credit_account_id, base.debit_account_id, base.currency, base.amount_nanos) THEN`,
      'THEN',
    ],
    [
      'what reverses is refused otherwise',
      "RAISE EXCEPTION 'transfer % does not reverse %', NEW.id, NEW.reverses_id USING ERRCODE = 'integrity_constraint_violation';",
      'NULL;',
    ],
  ]),
  ...guardsOf('function', LEDGER, 'database/periods', [
    ['no transfer of a closed month', `c.period = NEW.period) THEN\n    ${closed}`, 'c.period = NEW.period) THEN NULL;'],
    ['no record of a closed month', `BEGIN\n  ${closed}`, 'BEGIN RETURN NEW;'],
    [
      'the partition of a closed month is sealed',
      `EXECUTE format('CREATE TRIGGER "closed" BEFORE INSERT ON %I FOR EACH ROW EXECUTE FUNCTION mercato_refuse_record()', child);`,
      '',
    ],
    ['a month that is not over is not closed', ' OR month >= mercato_period(mercato_now()) THEN', ' THEN'],
    ['a month that is not over is refused', "RAISE EXCEPTION 'the period % is not over', month USING ERRCODE = 'MC010';", 'NULL;'],
    ['a month without books is not closed', "RAISE EXCEPTION 'the period % has no books', month USING ERRCODE = 'MC013';", 'NULL;'],
    ['a closed month is not closed again', "RAISE EXCEPTION 'the period % is closed already', month USING ERRCODE = 'MC012';", 'NULL;'],
    ['a month with leases is not closed', "RAISE EXCEPTION 'the period % has leases left', month USING ERRCODE = 'MC011';", 'NULL;'],
  ]),
  ...guardsOf('function', INIT, 'database/append-only', [
    [
      'what is append-only does not change',
      "RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'integrity_constraint_violation';",
      'RETURN coalesce(NEW, OLD);',
    ],
    [
      'a partition is not emptied',
      `EXECUTE format('CREATE TRIGGER "no_truncate" BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION mercato_refuse_change()', child);`,
      '',
    ],
    ['a partition has walls', "EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', child);", '', 'database/walls'],
    ["a partition's walls hold for its owner", "EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', child);", '', 'database/walls'],
    ['partitions are made of a few months', "RAISE EXCEPTION 'months_ahead must be 0 to 24';", 'NULL;', 'database/usage'],
    [
      'a partition that another made is left',
      "IF NOT EXISTS (SELECT FROM pg_class WHERE relname = child AND relnamespace = 'public'::regnamespace) THEN",
      'IF true THEN',
      'database/locks',
    ],
  ]),
];

/** Either keeps a month open that is not over: the look for those that are, and the closing itself. */
const notOver: Guard = {
  name: 'only months that are over close by themselves',
  kind: 'function',
  edits: [
    { file: LEDGER, find: ' OR month >= mercato_period(mercato_now()) THEN', put: ' THEN' },
    {
      file: 'src/billing/periods.ts',
      find: ' and p.period < mercato_period(least(mercato_now(), ${now}) - make_interval(hours => ${GRACE_HOURS}::int))',
      put: '',
    },
  ],
  tests: ['test/database/periods.test.ts'],
  postgres: true,
};

const byItself = guardsOf('code', 'src/billing/periods.ts', 'database/periods', [
  ['a month stays open for a day', ' - make_interval(hours => ${GRACE_HOURS}::int)', ''],
  ["a month is over by the process's clock too", 'least(mercato_now(), ${now})', 'mercato_now()'],
]);

export const functions: Guard[] = [
  notOver,
  ...byItself,
  ...settlement,
  ...limits,
  ...usedBefore,
  ...spend,
  ...told,
  ...counted,
  ...limitChanges,
  ...ledger,
];
