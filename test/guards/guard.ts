/** `lock`: of rows and more; `sql`: what the migrations declare; `function`: what SQL functions check; `code`: what TypeScript checks. */
export const KINDS = ['lock', 'sql', 'function', 'code'] as const;
export type Kind = (typeof KINDS)[number];

/** One text of a file, which is there once, and what stands there without the guard. */
export type Edit = { file: string; find: string; put: string };

/** What must not go unnoticed: without it, one of the tests has to fail. */
export type Guard = {
  name: string;
  kind: Kind;
  /** More than one where layers hold alone: all are removed together. */
  edits: readonly Edit[];
  tests: readonly string[];
  /** It needs transactions side by side, or another schema than the embedded cluster has. */
  postgres: boolean;
};

/** A text that a scan would take for a guard, and why it has none of its own. */
export type Excuse = { file: string; find: string; why: string };

/** Where `find` is in the text. Throws unless it is there once. */
export function placeOf(text: string, { file, find }: Pick<Edit, 'file' | 'find'>): { start: number; end: number } {
  const start = text.indexOf(find);
  if (start === -1) throw new Error(`${file} has no longer: ${find}`);
  if (text.indexOf(find, start + 1) !== -1) throw new Error(`${file} has more than once: ${find}`);
  return { start, end: start + find.length };
}

/** The texts without the guard, by file. */
export function without(guard: Guard, read: (file: string) => string): Map<string, string> {
  const texts = new Map<string, string>();
  for (const edit of guard.edits) {
    const text = texts.get(edit.file) ?? read(edit.file);
    const { start, end } = placeOf(text, edit);
    texts.set(edit.file, text.slice(0, start) + edit.put + text.slice(end));
  }
  return texts;
}

/** Guards of one file; each is `[name, find, put, tests]`, the tests by the names of `TESTS`. */
export function guardsOf(
  kind: Kind,
  file: string,
  tests: string,
  list: readonly (readonly [name: string, find: string, put: string, tests?: string])[],
): Guard[] {
  return list.map(([name, find, put, own]) => ({
    name,
    kind,
    edits: [{ file, find, put }],
    tests: (own ?? tests).split(' ').map((short) => `test/${short}.test.ts`),
    postgres: kind !== 'code',
  }));
}
