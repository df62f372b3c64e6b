import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { type BadRows, wrongFile } from './bad-rows.ts';
import { CategoryList, type Column, NumberList } from './columns.ts';

const LINE_CHARS_MAX = 16 * 1024 * 1024;
const COLUMNS_MAX = 4_096;

/** What a key holds in every row: nested lists of numbers have dimensions, the rest none. */
type Kind = { type: 'NUMBER'; dims: readonly number[] } | { type: 'CATEGORY' };

/**
 * Reads one JSON object a line, as a stream. The first row that is not bad says which keys there are and what each holds: a number, a text, true or false (a
 * text), or lists of numbers. A row with other keys or kinds is bad; null and a key left out are missing.
 */
export async function readNdjson(path: string, bad: BadRows): Promise<{ rows: number; columns: Column[] }> {
  let keys: Map<string, Values> | null = null;
  let [rows, line] = [0, 0];
  for await (const text of createInterface({ input: createReadStream(path, 'utf8'), crlfDelay: Number.POSITIVE_INFINITY })) {
    line++;
    if (text.length > LINE_CHARS_MAX) throw wrongFile('NDJSON', `line ${line} has ${text.length} characters`, `at most ${LINE_CHARS_MAX}`);
    if (text.trim() === '') continue;
    const row = objectIn(text);
    const fault = row === null ? 'no JSON object' : faultOf(row, keys);
    if (row === null || fault !== null) {
      bad.note(line, fault ?? '');
      continue;
    }
    keys ??= new Map(Object.entries(row).map(([key, value]) => [key, new Values(key, kindOf(value) ?? { type: 'CATEGORY' })]));
    for (const [key, values] of keys) values.push(row[key] ?? null);
    rows++;
  }
  if (keys === null) throw wrongFile('NDJSON', 'no row', 'one JSON object a line');
  return { rows, columns: [...keys.values()].map((values) => values.done()) };
}

function objectIn(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

function faultOf(row: Record<string, unknown>, keys: ReadonlyMap<string, Values> | null): string | null {
  const entries = Object.entries(row);
  if (entries.length === 0 || entries.length > COLUMNS_MAX) return `${entries.length} keys`;
  for (const [key, value] of entries) {
    if (key === '' || key.startsWith('/')) return `a key named "${key}"`;
    const kind = kindOf(value);
    const wanted = keys?.get(key)?.kind;
    if (keys !== null && wanted === undefined) return `the key ${key}, which the first row does not have`;
    if (value === null && keys !== null) continue;
    if (kind === null) return `${key} is neither a number, a text, true, false, nor lists of numbers of one length`;
    if (wanted !== undefined && show(kind) !== show(wanted)) return `${key} is ${show(kind)} instead of ${show(wanted)}`;
  }
  return null;
}

function kindOf(value: unknown): Kind | null {
  if (typeof value === 'number') return { type: 'NUMBER', dims: [] };
  if (typeof value === 'string' || typeof value === 'boolean') return { type: 'CATEGORY' };
  const dims = Array.isArray(value) ? dimsOf(value) : null;
  return dims && { type: 'NUMBER', dims };
}

/** Of lists of one length, with numbers inside; null for any other. */
function dimsOf(list: readonly unknown[]): number[] | null {
  if (list.length === 0) return null;
  if (list.every((one) => typeof one === 'number')) return [list.length];
  const inner = list.map((one) => (Array.isArray(one) ? dimsOf(one) : null));
  const [first] = inner;
  return first && inner.every((one) => one?.join() === first.join()) ? [list.length, ...first] : null;
}

function show(kind: Kind): string {
  if (kind.type === 'CATEGORY') return 'a text';
  return kind.dims.length === 0 ? 'a number' : `numbers [${kind.dims.join(', ')}]`;
}

/** The values of one key. */
class Values {
  readonly kind: Kind;
  readonly #name: string;
  readonly #numbers = new NumberList();
  readonly #texts = new CategoryList();

  constructor(name: string, kind: Kind) {
    this.#name = name;
    this.kind = kind;
  }

  push(value: unknown): void {
    if (this.kind.type === 'CATEGORY') {
      this.#texts.push(value === null ? null : String(value));
      return;
    }
    const size = this.kind.dims.reduce((product, dim) => product * dim, 1);
    const numbers = value === null ? Array.from({ length: size }, () => Number.NaN) : [value].flat(Number.POSITIVE_INFINITY);
    for (const one of numbers) this.#numbers.push(Number(one));
  }

  done(): Column {
    if (this.kind.type === 'CATEGORY') return this.#texts.done(this.#name);
    return { name: this.#name, kind: 'NUMBER', datatype: 'FP32', dims: this.kind.dims, values: this.#numbers.done() };
  }
}
