import { filesBelow } from './copy.ts';
import { type Excuse, type Guard, placeOf } from './guard.ts';
import { MUST_BE_KNOWN, TABLES } from './sql.ts';

/** What guards look like in code, of TypeScript and of SQL functions. */
const CHECKS = [
  /\bfor (?:no key )?(?:update|share)\b/gi,
  /\bpg_advisory_(?:xact_)?lock\b/gi,
  /\bset_config\(/gi,
  /\block table\b/gi,
  /\bon conflict\b/gi,
  /\bthrow (?:new MercatoError|refused|badInput|keyConflict)\b/g,
  /\bRAISE EXCEPTION\b/g,
  /\bauthorize(?:Operator)?\(/g,
  /\b(?:consumer_|publisher_)?tenant_id (?:=|in) /gi,
  // What is found by its key alone is found for whoever has the key.
  /\bwhere: \{(?! (?:id|email|name)(?:: \w+)? \})/g,
];
/** What guards look like where the migrations declare something. */
const DECLARES = /\b(UNIQUE|EXCLUDE|CHECK|POLICY|TRIGGER|FOREIGN KEY|ROW LEVEL SECURITY|GRANT|REVOKE)\b/;

const PREDICTION = [
  'grants',
  'leases',
  'lease-memory',
  'lease-returns',
  'lease-refusals',
  'lease-store',
  'settlement',
  'settlement-store',
  'replays',
  'prediction',
  'resolvers',
  'cancellations',
  'patience',
  'audit',
  'audit-scope',
];
/** Whether a tenant may call a model, and under which terms. */
const SUBSCRIPTIONS = ['subscriptions', 'entitlements'];
const FILES = [
  ...['src/usage', 'src/billing', 'src/access', 'src/tenancy'].flatMap((folder) => filesBelow(folder, '.ts')),
  ...PREDICTION.map((name) => `src/prediction/${name}.ts`),
  ...SUBSCRIPTIONS.map((name) => `src/catalog/${name}.ts`),
  'src/base/database.ts',
  'src/base/idempotency.ts',
  'src/app.ts',
];

type Range = { start: number; end: number };
export type Place = { file: string; line: number; text: string };

/** What the scan finds that neither a guard's text nor an excuse covers. */
export function unlisted(read: (file: string) => string, guards: readonly Guard[], excuses: readonly Excuse[]): Place[] {
  const listed = [...guards.flatMap(({ edits }) => edits), ...excuses];
  const migrations = filesBelow('prisma/migrations', '.sql');
  const later = laterThan(read);
  return [...FILES, ...migrations].flatMap((file) => {
    const text = read(file);
    const covered = listed.filter((one) => one.file === file).map((one) => placeOf(text, one));
    const found = file.endsWith('.sql')
      ? [
          ...checksIn(text).filter(({ start }) => isOurs(text, start) && !isReplaced(text, start, later(file))),
          ...declarationsIn(text),
          ...knownIn(text),
        ]
      : checksIn(text);
    return found
      .filter((place) => !covered.some((one) => one.start < place.end && place.start < one.end))
      .map(({ start }) => ({ file, line: text.slice(0, start).split('\n').length, text: lineAt(text, start) }));
  });
}

/** Guards in functions that a later migration replaces: to remove them there changes nothing. */
export function outlived(read: (file: string) => string, guards: readonly Guard[]): Guard[] {
  const later = laterThan(read);
  return guards.filter(
    ({ kind, edits }) =>
      kind !== 'sql' &&
      edits.some((edit) => {
        const text = read(edit.file);
        return edit.file.endsWith('.sql') && isReplaced(text, placeOf(text, edit).start, later(edit.file));
      }),
  );
}

/** The texts of the migrations after one. */
function laterThan(read: (file: string) => string): (file: string) => string[] {
  const migrations = filesBelow('prisma/migrations', '.sql');
  return (file) => migrations.filter((other) => other > file).map(read);
}

/** Each place alone, so that of two checks in a line both are listed. */
function checksIn(text: string): Range[] {
  const places = CHECKS.flatMap((pattern) => [...text.matchAll(pattern)].map(({ index }) => ({ start: index, end: index + 1 })));
  return places.filter(({ start }) => !/^(\*|\/\/|\/\*\*|--|import |export )/.test(lineAt(text, start))).sort((a, b) => a.start - b.start);
}

/** Statements about our tables. */
function declarationsIn(text: string): Range[] {
  return [
    ...text.matchAll(/^(?:ALTER TABLE|CREATE (?:UNIQUE |CONSTRAINT )*(?:INDEX|TRIGGER|POLICY)|GRANT|REVOKE)[^;]*;|^ +CONSTRAINT .*$/gm),
  ]
    .filter(([statement]) => DECLARES.test(statement) && !/ NO FORCE /.test(statement) && namesOurs(statement))
    .map(({ 0: statement, index }) => ({ start: index, end: index + statement.length }));
}

/** Columns of our tables that must be known, and say so; those of a primary key say it anyway. */
function knownIn(text: string): Range[] {
  return [...text.matchAll(/^(?:CREATE|ALTER) TABLE "(\w+)"[^;]*;/gm)].flatMap(({ 0: statement, 1: table = '', index }) => {
    if (!TABLES.includes(table)) return [];
    const [key = ''] = /PRIMARY KEY .*/.exec(statement) ?? [];
    return [...statement.matchAll(/"(\w+)" (?:"\w+"|[A-Z]\S*) (?:[^",]*? )?(?<!IS )NOT NULL/g)]
      .filter(([, column = '']) => MUST_BE_KNOWN.test(column) && !key.includes(`"${column}"`))
      .map(({ 0: declared, index: at }) => ({ start: index + at, end: index + at + declared.length }));
  });
}

function namesOurs(statement: string): boolean {
  const [, table = /^ +CONSTRAINT "(\w+?)_(?:pkey|\w*check)"/.exec(statement)?.[1]] = /(?:ON|TABLE) "(\w+)"/.exec(statement) ?? [];
  return TABLES.includes(table ?? '');
}

/** Whether a check in a migration is of a function or statement for our tables; those of other contexts' migrations are theirs. */
function isOurs(text: string, at: number): boolean {
  return !lineAt(text, at).startsWith('CREATE POLICY') && OURS.test(text);
}
const OURS = /mercato_settle|"mutation_key"|"closed_period"|CREATE TABLE "account"/;

/** Whether the function around a place is defined again by a later migration. */
function isReplaced(text: string, at: number, later: readonly string[]): boolean {
  const name = [...text.slice(0, at).matchAll(/^CREATE (?:OR REPLACE )?FUNCTION (\w+)\(/gm)].at(-1)?.[1];
  return later.some((other) => other.includes(`CREATE OR REPLACE FUNCTION ${name}(`));
}

function lineAt(text: string, at: number): string {
  const start = text.lastIndexOf('\n', at) + 1;
  const end = text.indexOf('\n', at);
  return text.slice(start, end === -1 ? undefined : end).trim();
}
