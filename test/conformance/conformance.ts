/**
 * `npm run conformance -- ARCHIVE [PATTERN]`: every one of ONNX's backend test cases through upload and predict, over HTTP. Prints how many are
 * right, and what stood against the others; on the devices of MERCATO_DEVICES, where that is set. Exits 1 below 98 % of the cases that can be asked, or at one wrong answer.
 */
import { inParallel } from '../support/client.ts';
import { openCases } from './cases.ts';
import { openDoor } from './door.ts';
import { type Judged, judge } from './judge.ts';

const [archive, pattern = ''] = process.argv.slice(2);
if (archive === undefined) {
  console.error(
    'usage: npm run conformance -- ARCHIVE [PATTERN]   (the archive of ONNX backend cases, and a regular expression for their names)',
  );
  process.exit(2);
}
const WIDTH = 4;
const SHARE = 0.98;

await using cases = await openCases(archive);
await using door = await openDoor();
const names = cases.names.filter((name) => new RegExp(pattern).test(name));
const judged: Judged[] = [];
await inParallel(names.length, WIDTH, async (i) => {
  const one = await cases.read(names[i] ?? '');
  judged.push(
    await judge(door, one).catch(
      (error: unknown): Judged => ({ name: one.name, verdict: 'REFUSED', why: 'the caller failed', detail: String(error) }),
    ),
  );
  if (judged.length % 200 === 0) console.error(`${judged.length} of ${names.length}`);
});

const of = (verdict: Judged['verdict']) => judged.filter((one) => one.verdict === verdict);
const [right, wrong, runtime, refused, outside] = [of('RIGHT'), of('WRONG'), of('RUNTIME'), of('REFUSED'), of('OUTSIDE')];
const asked = right.length + wrong.length + runtime.length + refused.length;
const share = asked === 0 ? 0 : right.length / asked;
console.log(
  `${judged.length} cases, ${asked} can be asked: ${right.length} right (${(share * 100).toFixed(2)} %), ${wrong.length} wrong, ${runtime.length} as ONNX Runtime alone answers and ONNX does not, ${refused.length} refused`,
);
for (const [title, list] of [
  ['wrong', wrong],
  ['runtime', runtime],
  ['refused', refused],
  ['outside', outside],
] as const) {
  const reasons = Map.groupBy(list, ({ why }) => why);
  for (const [why, some] of [...reasons].toSorted((a, b) => b[1].length - a[1].length)) {
    console.log(`${String(some.length).padStart(6)}  ${title}: ${why}`);
    if (title === 'outside') continue;
    for (const { name, detail } of some.slice(0, 40)) console.log(`          ${name}: ${detail.slice(0, 300)}`);
  }
}
process.exitCode = share >= SHARE && wrong.length === 0 ? 0 : 1;
