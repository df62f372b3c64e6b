import { filesBelow } from './copy.ts';
import { type Excuse, type Guard, placeOf } from './guard.ts';

/** What guards look like in the code of usage, billing and access, and where the rest of the code meters and bills. */
const PATTERNS = [
  /\bfor (?:no key )?(?:update|share)\b/gi,
  /\bpg_advisory_xact_lock\b/gi,
  /\block table\b/gi,
  /\bon conflict\b/gi,
  /\bthrow (?:new MercatoError|refused|badInput|keyConflict|inAskedWords)\b/g,
  /\bRAISE EXCEPTION\b/g,
  /\bauthorize(?:Operator)?\(/g,
  /\btenant_id(?:"| in)? ?(?:=|in) /gi,
];

const FILES = [
  ...['src/usage', 'src/billing', 'src/access'].flatMap((folder) => filesBelow(folder, '.ts')),
  ...[
    'grants',
    'leases',
    'lease-memory',
    'lease-returns',
    'lease-refusals',
    'lease-store',
    'settlement',
    'settlement-store',
    'replays',
  ].map((name) => `src/prediction/${name}.ts`),
  'src/base/idempotency.ts',
  'prisma/migrations/20261123000000_init/migration.sql',
  ...filesBelow('prisma/migrations', '.sql').filter((file) => /_(limits|ledger|mutation_keys)\//.test(file)),
];

export type Place = { file: string; line: number; text: string };

/** What the scan finds that neither a guard's text nor an excuse covers. */
export function unlisted(read: (file: string) => string, guards: readonly Guard[], excuses: readonly Excuse[]): Place[] {
  const listed = [...guards.flatMap(({ edits }) => edits), ...excuses];
  return FILES.flatMap((file) => {
    const text = read(file);
    const covered = listed.filter((one) => one.file === file).map((one) => placeOf(text, one));
    return placesIn(text)
      .filter((at) => !covered.some(({ start, end }) => at >= start && at < end))
      .map((at) => ({ file, line: text.slice(0, at).split('\n').length, text: lineAt(text, at) }));
  });
}

function placesIn(text: string): number[] {
  const places = PATTERNS.flatMap((pattern) => [...text.matchAll(pattern)].map(({ index }) => index));
  return places
    .filter((at) => !/^\s*(\*|\/\/|\/\*\*|--)/.test(lineAt(text, at)) && !/^\s*(import|export) /.test(lineAt(text, at)))
    .sort((a, b) => a - b);
}

function lineAt(text: string, at: number): string {
  const start = text.lastIndexOf('\n', at) + 1;
  const end = text.indexOf('\n', at);
  return text.slice(start, end === -1 ? undefined : end).trim();
}
