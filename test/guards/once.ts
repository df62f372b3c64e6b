/** `node once.ts FILE…`: runs these test files until one test fails, and prints what came of it as one line of JSON. */
import { startVitest, type TestCase, type TestModule } from 'vitest/node';

export type Outcome = { passed: number; failed: string[]; faults: string[] };

/** What a mutated text gets that is no longer a program: nothing was tested. */
const NO_PROGRAM =
  /syntax error|SyntaxError|ReferenceError|Transform failed|PARSE_ERROR|is not defined|is not a function|\b42(601|703|P01|883|P10|704)\b|(column|relation|function|operator) .* does not exist/;

const texts = (errors: readonly { message?: string }[] | undefined) => (errors ?? []).map(({ message }) => message ?? '');

function outcomeOf(modules: readonly TestModule[], unhandled: readonly unknown[]): Outcome {
  const outcome: Outcome = { passed: 0, failed: [], faults: unhandled.map((error) => String((error as Error).message ?? error)) };
  for (const module of modules) {
    const name = module.relativeModuleId;
    const cases: TestCase[] = [...module.children.allTests()];
    const ofHooks = [module, ...module.children.allSuites()].flatMap((part) => texts(part.errors()));
    if (cases.length === 0) outcome.faults.push(`${name}: no tests ran: ${ofHooks.join('; ')}`);
    else if (ofHooks.length > 0) add(outcome, `${name} > (hook)`, ofHooks);
    for (const one of cases) {
      const { state, errors } = one.result();
      if (state === 'passed') outcome.passed++;
      if (state === 'failed') add(outcome, `${name} > ${one.fullName}`, texts(errors));
    }
  }
  return outcome;
}

function add(outcome: Outcome, name: string, errors: readonly string[]): void {
  const fault = errors.find((text) => NO_PROGRAM.test(text));
  if (fault === undefined) outcome.failed.push(name);
  else outcome.faults.push(`${name}: ${fault}`);
}

const files = process.argv.slice(2);
const vitest = await startVitest('test', files, { run: true, watch: false, bail: 1, config: '.config/vitest.config.ts', reporters: [{}] });
const outcome = outcomeOf(vitest.state.getTestModules(), vitest.state.getUnhandledErrors());
await vitest.close();
process.stdout.write(`\n${JSON.stringify(outcome)}\n`, () => process.exit(0));
