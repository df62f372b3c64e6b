/**
 * Makes everything under src/generated/: Prisma's client, the resolvers' types, and the empty migrated cluster that embedded databases
 * start from. Runs at every install, whatever Node installs: npm puts node_modules/.bin, where the project's own Node is, first on the PATH.
 */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const bin = (name: string) => fileURLToPath(new URL(`../../node_modules/.bin/${name}`, import.meta.url));
const run = (name: string, ...args: string[]) => execFileSync(bin(name), args, { cwd: root, stdio: ['ignore', 'ignore', 'pipe'] }); // what it said on stderr is in the error

run('prisma', 'generate', '--config', '.config/prisma.config.ts');
run('graphql-codegen', '--config', '.config/codegen.ts', '--silent');
run('node', '--disable-warning=ExperimentalWarning', 'src/commands/cluster.ts');
