import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { readFile } from '../guards/copy.ts';
import { placeOf } from '../guards/guard.ts';
import { allExcuses, allGuards } from '../guards/list.ts';
import { unlisted } from '../guards/scan.ts';

const guards = allGuards(readFile);

describe('the guards that are removed in turn', () => {
  it('are what the code has: each text once, and something else in its place', () => {
    for (const edit of guards.flatMap(({ edits }) => edits)) {
      expect(() => placeOf(readFile(edit.file), edit)).not.toThrow();
      expect(edit.put).not.toBe(edit.find);
    }
  });

  it('have names of their own, and tests that exist', () => {
    const names = guards.map(({ name }) => name);
    expect(names.filter((name, i) => names.indexOf(name) !== i)).toEqual([]);
    const tests = [...new Set(guards.flatMap((guard) => guard.tests))];
    expect(tests.filter((test) => !existsSync(new URL(`../../${test}`, import.meta.url)))).toEqual([]);
  });

  it('are all that a scan finds, but for what has a reason to be none', () => {
    expect(unlisted(readFile, guards, allExcuses())).toEqual([]);
  });

  it('would miss one that is new', () => {
    const read = (file: string) =>
      `${readFile(file)}\nif (false) throw refused('NEW');\nALTER TABLE "lease" ADD CONSTRAINT "lease_new_check" CHECK (true);\nALTER TABLE "lease" ADD COLUMN "new_nanos" BIGINT NOT NULL;\n`;
    const found = unlisted(read, guards, allExcuses());
    expect(found.filter(({ text }) => text.includes('NEW')).length).toBeGreaterThan(20);
    expect(found.filter(({ text }) => text.includes('lease_new_check')).length).toBeGreaterThan(0);
    expect(found.filter(({ text }) => text.includes('new_nanos')).length).toBeGreaterThan(0);
  });
});
