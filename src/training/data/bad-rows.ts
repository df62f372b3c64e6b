import { badInput } from '../../base/errors.ts';
import type { BadRow } from './columns.ts';

const FIRST_MAX = 20;
const SAID_MAX = 3;

/** Counts rows that are left out. */
export class BadRows {
  readonly first: BadRow[] = [];
  count = 0;
  readonly #max: number;

  constructor(max: number) {
    this.#max = max;
  }

  /** @throws BAD_USER_INPUT `badRowsMax` where it is one too many */
  note(line: number, reason: string): void {
    this.count++;
    if (this.first.length < FIRST_MAX) this.first.push({ line, reason });
    if (this.count <= this.#max) return;
    const said = this.first.slice(0, SAID_MAX).map((row) => `line ${row.line}: ${row.reason}`);
    throw badInput('badRowsMax', `More rows are bad than badRowsMax allows, ${this.#max}: ${said.join('; ')}.`, {
      given: String(this.#max),
      expected: 'a file without bad rows, or a higher limit',
    });
  }
}

/** @throws BAD_USER_INPUT: the file is not what its format says */
export function wrongFile(format: string, seen: string, expected: string): Error {
  return badInput('format', `The file is no ${format} that can be read: ${seen}.`, { given: seen, expected });
}
