import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NameSet } from '../../src/inference/onnx/name-set.ts';

/** Names that differ in one character or in length, of those that are hashed here and of longer ones. */
const close = fc
  .tuple(fc.nat({ max: 130 }), fc.nat({ max: 130 }), fc.constantFrom('', '\0', 'a', 'b', '\u8000', '\ud83d'))
  .map(([before, after, middle]) => `${'\0'.repeat(before)}${middle}${'\0'.repeat(after)}`);

describe('NameSet', () => {
  it('has what was added, each once, as a Set', () => {
    const names = fc.array(fc.oneof(close, fc.string({ unit: 'binary', maxLength: 80 })), { maxLength: 200 });
    fc.assert(
      fc.property(names, names, (added, asked) => {
        const [ours, theirs] = [new NameSet(), new Set<string>()];
        for (const name of added) {
          expect(ours.add(name)).toBe(!theirs.has(name));
          theirs.add(name);
        }
        for (const name of [...added, ...asked]) expect(ours.has(name)).toBe(theirs.has(name));
      }),
    );
  });

  it('holds more names than it has buckets', () => {
    const names = new NameSet();
    const many = Array.from({ length: 200_000 }, (_, index) => `v${index}`);
    expect(many.filter((name) => !names.add(name))).toEqual([]);
    expect(many.filter((name) => !names.has(name) || names.add(name))).toEqual([]);
    expect(names.has('v200000')).toBe(false);
  });
});
