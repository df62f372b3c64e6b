import { filesBelow } from './copy.ts';
import type { Guard } from './guard.ts';

/** The tables of access, usage and billing, with the prices and rights that these stand on. */
export const TABLES = [
  'server_process,invalidation,tenant,app_user,member,session,refresh_token,api_key,api_key_use,mutation_key',
  'usage_counter,lease,rate_limit,usage_record,usage_limit,limit_counter,usage_alert,outbox,usage_rollup,idempotency_key,replay',
  'account,transfer,subscription_charge,closed_period,plan_version,subscription',
].flatMap((list) => list.split(','));

/** Columns whose null would escape a CHECK, a unique index or a policy, or be counted as nothing: of identity, amounts, and what rights and rules go by. */
export const MUST_BE_KNOWN =
  /_id$|_nanos$|_units$|_bps$|hash$|^(amount|used|leased|units|slots|nanos|number|percent|period|currency|name|email|digest|kind|phase|state|role|subject|measure|hard|is_operator|counters|scopes|expires_at)$/;

/** A part of a statement; `of`: what the statement declares. */
type Part = { of: string; name?: string; at: [number, number]; put: string; test: string };
type Found = Part & { file: string; start: number; end: number };

/** A guard for every policy, grant, constraint, NOT NULL that matters, unique index and trigger that the migrations leave standing on `TABLES`. */
export function sqlGuards(read: (file: string) => string): Guard[] {
  const files = filesBelow('prisma/migrations', '.sql').sort();
  // What a later migration declares again replaces what an earlier one did.
  const standing = new Map<string, Found[]>();
  for (const file of files) for (const found of foundIn(file, read(file))) standing.set(found[0]?.of ?? '', found);
  return [...standing.values()].flat().map(({ of, name, file, start, end, put, test }) => {
    const text = read(file);
    const find = uniqueFrom(text, start, end);
    const edits = [{ file, find, put: find.slice(0, find.length - (end - start)) + put }];
    return { name: name ? `${of}: ${name}` : of, kind: 'sql', edits, tests: [`test/database/${test}.test.ts`], postgres: true };
  });
}

/** The text from `start` to `end`, with as much of what stands before it as makes it the only one. */
function uniqueFrom(text: string, start: number, end: number): string {
  let from = start;
  while (text.indexOf(text.slice(from, end)) !== text.lastIndexOf(text.slice(from, end))) from = text.lastIndexOf('\n', from - 2) + 1;
  return text.slice(from, end);
}

const isOurs = (table: string | undefined) => TABLES.includes(table ?? '');

function* foundIn(file: string, text: string): Generator<Found[]> {
  for (const [pattern, partsOf] of STATEMENTS) {
    for (const match of text.matchAll(pattern)) {
      const at = match.index;
      yield partsOf(match).map((part) => ({ ...part, file, start: at + part.at[0], end: at + part.at[1] }));
    }
  }
}

const whole = (match: RegExpMatchArray): [number, number] => [0, match[0].length];

/** How each kind of statement is found, and what its guards are. */
const STATEMENTS: [RegExp, (match: RegExpMatchArray) => Part[]][] = [
  [/CREATE POLICY "(\w+)" ON "(\w+)"[^;]*;/g, policyParts],
  [
    /ALTER TABLE "(\w+)" (ENABLE|FORCE) ROW LEVEL SECURITY;/g,
    (match) => (isOurs(match[1]) ? [{ of: `${match[1]}: ${match[2]} ROW LEVEL SECURITY`, at: whole(match), put: '', test: 'walls' }] : []),
  ],
  [/GRANT ([A-Z, ]+) ON ((?:"\w+",?\s*)+)\s*TO (\w+);/g, grantParts],
  [
    /REVOKE EXECUTE ON FUNCTION (\w+)\([^;]*;/g,
    // A function replaced later keeps its rights.
    (match) => [{ of: `${match[1]}: not for everybody`, at: whole(match), put: '', test: 'walls' }],
  ],
  [
    /CREATE (?:OR REPLACE )?FUNCTION (\w+)\([^$]*? SECURITY DEFINER (SET search_path = public, pg_temp)/g,
    ([text, name, path = '']) => [{ of: `${name}: its search_path`, at: [text.length - path.length, text.length], put: '', test: 'walls' }],
  ],
  [
    /(ALTER TABLE "\w+" ADD )?CONSTRAINT "(\w+)" CHECK \(/g,
    (match) => (isOurs(tableOf(match[2])) ? checkParts(match[2] ?? '', match) : []),
  ],
  [
    /CONSTRAINT "(\w+)_pkey" (PRIMARY KEY \([^)]*\))/g,
    ([text, table = '', key = '']) =>
      isOurs(table) && !REFERENCED.includes(table)
        ? [{ of: `${table}_pkey`, at: [text.length - key.length, text.length], put: 'CHECK (true)', test: 'constraints' }]
        : [],
  ],
  [
    // Of a column of a primary key nothing changes without it.
    /(?<=^(?:CREATE|ALTER) TABLE "(\w+)"[^;]*)"(\w+)" (?:"\w+"|(?!IS |SET )[A-Z]+)(?:\([\d,]+\))?(?:\[\])?( NOT NULL)(?![^;]*PRIMARY KEY \([^;)]*"\2")/gm,
    ([text, table, column = '', words = '']) =>
      isOurs(table) && MUST_BE_KNOWN.test(column)
        ? [{ of: `${table}.${column} NOT NULL`, at: [text.length - words.length, text.length], put: '', test: 'constraints' }]
        : [],
  ],
  [
    /ALTER TABLE "(\w+)" ALTER COLUMN "(\w+)" SET NOT NULL;/g,
    (match) => (isOurs(match[1]) ? [{ of: `${match[1]}.${match[2]} NOT NULL`, at: whole(match), put: '', test: 'constraints' }] : []),
  ],
  [
    /CREATE (UNIQUE )INDEX "(\w+)" ON "(\w+)"/g,
    ([, , index, table]) => (isOurs(table) ? [{ of: `${index}`, at: [7, 14], put: '', test: 'constraints' }] : []),
  ],
  [
    /ALTER TABLE "(\w+)" ADD CONSTRAINT "(\w+)" FOREIGN KEY [^;]*;/g,
    (match) => (isOurs(match[1]) ? [{ of: `${match[2]}`, at: whole(match), put: '', test: 'constraints' }] : []),
  ],
  [
    /CREATE TRIGGER "(\w+)" [^;]* ON "(\w+)"[^;]*;/g,
    (match) => (isOurs(match[2]) ? [{ of: `trigger ${match[1]}`, at: whole(match), put: '', test: triggerTest(match[1] ?? '') }] : []),
  ],
];

/** Without their keys no foreign key could refer to them: the migration itself fails. */
const REFERENCED = ['tenant', 'app_user', 'session', 'usage_limit', 'plan_version'];

/** The table that a constraint names first. */
function tableOf(constraint = ''): string | undefined {
  return TABLES.filter((table) => constraint.startsWith(`${table}_`)).sort((a, b) => b.length - a.length)[0];
}

function triggerTest(trigger: string): string {
  if (/append_only|no_truncate/.test(trigger)) return 'append-only';
  if (trigger === 'transfer_period' || trigger === 'lease_period') return 'periods';
  if (trigger === 'usage_limit_followed') return 'limit-windows';
  return trigger === 'transfer_reference' ? 'ledger-checks' : 'constraints';
}

function policyParts({ 0: text, 1: policy, 2: table }: RegExpMatchArray): Part[] {
  if (!isOurs(table)) return [];
  const of = `policy ${policy} of ${table}`;
  const role = / TO (mercato_\w+)/.exec(text);
  if (role && role[1] !== 'mercato_tenant') {
    return [{ of, name: `for ${role[1]} alone`, at: [role.index, role.index + role[0].length], put: '', test: 'walls' }];
  }
  return ['USING', 'WITH CHECK'].flatMap((clause) => {
    const at = text.indexOf(`${clause} (`);
    if (at === -1) return [];
    const open = at + clause.length + 1;
    return [{ of, name: clause, at: [open, closing(text, open) + 1], put: '(true)', test: 'walls' }];
  });
}

function grantParts({ 0: text, 1: privileges = '', 2: tables = '', 3: role }: RegExpMatchArray): Part[] {
  const ours = [...tables.matchAll(/"(\w+)"/g)].flatMap(([, table]) => (isOurs(table) ? [table] : []));
  if (ours.length === 0) return [];
  const at = text.indexOf(privileges);
  return [{ of: `grants to ${role} on ${ours.join(', ')}`, name: privileges, at: [at, at + privileges.length], put: 'ALL', test: 'walls' }];
}

/** One guard for each condition that the CHECK joins by AND. */
function checkParts(constraint: string, match: RegExpMatchArray): Part[] {
  const text = match.input ?? '';
  const open = (match.index ?? 0) + match[0].length - 1;
  const parts = conjuncts(text, open + 1, closing(text, open));
  return parts.map(([start, end]) => ({
    of: constraint,
    ...(parts.length === 1 ? {} : { name: text.slice(start, end).replace(/\s+/g, ' ').trim() }),
    at: [start - (match.index ?? 0), end - (match.index ?? 0)],
    put: 'true',
    test: 'constraints',
  }));
}

/** Where the parenthesis at `open` is closed. */
function closing(text: string, open: number): number {
  let depth = 0;
  for (let i = open; i < text.length; i++) {
    if (text[i] === "'") i = text.indexOf("'", i + 1);
    else if (text[i] === '(') depth++;
    else if (text[i] === ')' && --depth === 0) return i;
  }
  throw new Error(`a parenthesis is not closed: ${text.slice(open, open + 80)}`);
}

/** The ranges between the ANDs that stand in no parenthesis and in no BETWEEN. */
function conjuncts(text: string, from: number, to: number): [number, number][] {
  const ranges: [number, number][] = [];
  let start = from;
  let between = false;
  for (let i = from; i < to; i++) {
    if (text[i] === "'") i = text.indexOf("'", i + 1);
    else if (text[i] === '(') i = closing(text, i);
    else if (text.startsWith('BETWEEN', i)) between = true;
    else if (/^\sAND\s/.test(text.slice(i, i + 5))) {
      if (!between) {
        ranges.push([start, i]);
        start = i + 5;
      }
      between = false;
    }
  }
  ranges.push([start, to]);
  return ranges;
}
