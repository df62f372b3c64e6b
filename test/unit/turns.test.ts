import { expect, test } from 'vitest';
import { Turns } from '../../src/base/turns.ts';

/** Works that end when a test says so; `begun` has their names in the order of their beginning. */
function open(most: { each: number; all: number }) {
  const turns = new Turns(most);
  const begun: string[] = [];
  const ends = new Map<string, () => void>();
  const ask = (work: string) => {
    const done = Promise.withResolvers<void>();
    ends.set(work, done.resolve);
    return turns.run(work.charAt(0), () => {
      begun.push(work);
      return done.promise;
    });
  };
  return { begun, ask, end: (work: string) => ends.get(work)?.() };
}

test('so many works of a name run at once, and so many in all; of those that wait names take turns', async () => {
  const { begun, ask, end } = open({ each: 2, all: 3 });
  const works = ['a1', 'a2', 'a3', 'a4', 'b1', 'b2', 'c1'].map((name) => ({ name, done: ask(name) }));
  expect(begun).toEqual(['a1', 'a2', 'b1']);
  const after = async (name: string) => {
    end(name);
    await works.find((work) => work.name === name)?.done;
    return begun.splice(0);
  };
  begun.splice(0);
  expect(await after('b1')).toEqual(['b2']);
  expect(await after('a1')).toEqual(['a3']);
  expect(await after('a2')).toEqual(['c1']);
  expect(await after('a3')).toEqual(['a4']);
  for (const { name } of works) end(name);
  await Promise.all(works.map(({ done }) => done));
});

test('a work that fails gives its place to the next', async () => {
  const turns = new Turns({ each: 1, all: 1 });
  const failed = turns.run('a', () => Promise.reject(new Error('broken')));
  const next = turns.run('a', async () => 'done');
  await expect(failed).rejects.toThrow('broken');
  expect(await next).toBe('done');
});
