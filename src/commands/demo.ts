/**
 * `npm run demo [-- --data DIR]`: collect, train, optimise, deploy, call and pay, on a marketplace of its own that is gone afterwards. Everything goes through
 * the API that everybody has. DIR holds the four gzipped IDX files of MNIST; without it digits are drawn.
 */
import { parseArgs } from 'node:util';
import { billOf, type Called, call, subscribeTo } from './demo-call.ts';
import { drawDigitFiles, readDigitFiles, showPictures } from './demo-digits.ts';
import { makeDataset, optimise, signUp, train } from './demo-model.ts';
import { startDemoServer } from './demo-server.ts';

const PICTURES = 10;
const PER_LINE = 5;

const { values } = parseArgs({ options: { data: { type: 'string' } } });
const started = performance.now();
let steps = 0;
const colours = process.stdout.isTTY === true && process.env.NO_COLOR === undefined;
const heading = (text: string) => console.log(colours ? `\n\u001b[1m${++steps}. ${text}\u001b[0m` : `\n${++steps}. ${text}`);
const say = (text: string) => console.log(`   ${text}`);

say('A marketplace starts in a temporary folder.');
await using server = await startDemoServer();
say(`It is at ${server.url}/graphql; everything below is asked of it over HTTP.`);

heading('Collect');
const files = values.data === undefined ? drawDigitFiles() : await readDigitFiles(values.data);
const publisher = await signUp(server, 'studio');
const [learnt, kept] = [
  await makeDataset(server, publisher, 'digits to learn from', files.train),
  await makeDataset(server, publisher, 'digits to test with', files.test),
];
say(`The tenant studio uploads ${files.what}: ${learnt.rows} pictures to learn from, ${kept.rows} that training never sees.`);
say(`Each is a column image of ${learnt.dimensions.join(' × ')} bytes and a label; ${learnt.classes} classes, nothing missing.`);

heading('Train');
say('Flatten 28 × 28, dense 128 with ReLU, dropout 0.2, dense 10 with softmax; Adam on sparse categorical cross-entropy, 5 epochs.');
const made = await train(server, publisher, { datasetId: learnt.id, testDatasetId: kept.id }, (line) => process.stdout.write(line));
say(`The result is version ${made.handle}: ${(100 * made.accuracy).toFixed(2)} % of the ${kept.rows} test pictures are read right.`);
say(`Metered: ${(made.computeMicros / 1e6).toFixed(1)} s of CPU time, in a process of its own.`);

heading('Optimise');
const small = await optimise(server, publisher, made.versionId);
say(`8-bit integers, calibrated on training rows: version ${small.handle}.`);
say(`Size ${small.sizeBytes} bytes instead of ${small.sourceSizeBytes}: ${(small.sizeBytes / small.sourceSizeBytes).toFixed(2)}×.`);
say(`Accuracy ${(100 * small.metric).toFixed(2)} % instead of ${(100 * small.sourceMetric).toFixed(2)} %.`);
for (const { rows, sourceMs, ms } of small.latencies) {
  say(
    `${String(rows).padStart(3)} rows in ${ms.toFixed(3)} ms instead of ${sourceMs.toFixed(3)} ms: ${(sourceMs / ms).toFixed(2)} times as fast.`,
  );
}
for (const { output, worst, mean } of small.differences)
  say(`${output} differ by ${worst.toFixed(4)} at worst, ${mean.toFixed(6)} in the mean.`);

heading('Deploy');
const { key, plans } = await subscribeTo(server, publisher, made.modelId, { live: made.versionId, small: small.versionId });
say('studio/digits is published: alias live is what was trained, alias small its 8-bit variant.');
for (const plan of plans) say(`Plan ${plan.name}: ${Number(plan.unitPriceNanos) / 1e9} EUR a digit, alias ${plan.alias ?? 'live'}.`);
say('The tenant shop gets 1 EUR of credit from the operator, subscribes to the plan standard, and makes an API key.');

heading('Call');
const calls: Called[] = [];
for (let row = 0; row < PICTURES; row++) calls.push(await call(server, key, files.picture(row).image, `digit-${row}`));
for (let from = 0; from < PICTURES; from += PER_LINE) {
  console.log(
    showPictures(
      Array.from({ length: PER_LINE }, (_, index) => files.picture(from + index).image),
      colours,
    ),
  );
  const texts = calls.slice(from, from + PER_LINE).map(({ label, probability }, index) => {
    const { label: truth } = files.picture(from + index);
    return `  ${label} (${(100 * probability).toFixed(1)} %)${label === truth ? '' : ` is a ${truth}`}`.padEnd(29);
  });
  console.log(texts.join(''));
}
const right = calls.filter(({ label }, row) => label === files.picture(row).label).length;
say(
  `${right} of ${PICTURES} are right; each call took ${calls
    .map(({ computeMs }) => computeMs)
    .sort((a, b) => a - b)[5]
    ?.toFixed(2)} ms to compute (median).`,
);

heading('The bill');
const bill = await billOf(server, key.consumer, publisher);
for (const line of bill) say(line);
const { holds, broken } = await server.audit();
say(`All of it took ${((performance.now() - started) / 1000).toFixed(1)} s.`);
if (broken.length > 0) {
  say(`The ledger does not balance: ${broken.join('; ')}`);
  process.exitCode = 1;
} else console.log(`\nThe ledger balances: ${holds} invariants of meters and money hold.`);
