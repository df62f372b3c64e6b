import { execFile, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { basename } from 'node:path';
import { promisify } from 'node:util';

export type Command = readonly [string, ...string[]];

/** What is in force for a process under `confined`, and what this system does not allow. */
type Confinement = { inForce: string[]; missing: string[] };

/** Writable memory that Node with ONNX Runtime reserves, before it loads a model; 1.1 GiB measured on 2 cores, Nov 2026. */
const BASE_BYTES = 2 * 1024 ** 3;
const OPEN_FILES_MAX = 512;
/** Threads count too; a runner has about 20, and drivers of graphics processors add some for each core. */
const PROCESSES_MAX = 512;
/** Of 1000, which is always first. */
const OUT_OF_MEMORY_SCORE = 900;
/** Of a process that may not slow down the others. */
const LOW_PRIORITY = 5;

const PRLIMIT = '/usr/bin/prlimit';
const SETPRIV = '/usr/bin/setpriv';
const UNSHARE = '/usr/bin/unshare';

/** A measure is taken where the command before a trial lets that run. `words` are for the operator. */
type Measure = { words: string; prefix: readonly string[] };

const PRIVILEGES: Measure = {
  words: 'no new privileges, no capabilities',
  prefix: [SETPRIV, '--no-new-privs', '--bounding-set=-all', '--inh-caps=-all', '--pdeathsig', 'KILL'],
};
/** Where capabilities cannot be given up, since there is no right to. */
const NO_NEW_PRIVILEGES: Measure = { words: 'no new privileges', prefix: [SETPRIV, '--no-new-privs', '--pdeathsig', 'KILL'] };
const NETWORK: Measure = { words: 'no network', prefix: [UNSHARE, '--net'] };
const NETWORK_OF_A_USER: Measure = { words: 'no network', prefix: [UNSHARE, '--user', '--map-current-user', '--net'] };
const LIMITS: Measure = { words: 'bounds of memory and open files, no core file', prefix: [PRLIMIT, '--core=0'] };

/**
 * The kernel counts the processes of a user, and of one user namespace where there is one: only there is the bound a process's own. It never binds root, whose
 * runners keep that no operator of ONNX Runtime starts a process.
 */
const PROCESSES: Measure = { words: 'a bound of processes', prefix: [PRLIMIT, `--nproc=${PROCESSES_MAX}`] };

/** Whether a shell that may be one process alone is refused a second. */
const bindsProcesses = () => {
  const [program = '', ...args] = NETWORK_OF_A_USER.prefix;
  const alone = [...args, PRLIMIT, '--nproc=1', '/bin/sh', '-c', '/bin/true; exit 0'];
  return works({ ...PROCESSES, prefix: [program, ...args, ...PROCESSES.prefix] }) && spawnSync(program, alone, TRIAL).status !== 0;
};

const TRIAL = { stdio: 'ignore', timeout: 5_000 } as const;
const works = ({ prefix: [program = '', ...args] }: Measure) =>
  existsSync(program) && spawnSync(program, [...args, '/bin/true'], TRIAL).status === 0;

type Taken = { limits: boolean; network: Measure | null; processes: Measure | null; privileges: Measure | null };
let taken: Taken | null = null;

/** No process can be allowed more than this one is. */
function ownBytesMax(): number {
  const limits = '/proc/self/limits';
  const found = existsSync(limits) ? /^Max data size +\S+ +(\d+)/m.exec(readFileSync(limits, 'utf8')) : null;
  return Number(found?.[1] ?? Number.POSITIVE_INFINITY);
}

/** Tried once per process: it costs some short-lived processes. */
function measures(): Taken {
  if (taken !== null) return taken;
  const network = [NETWORK, NETWORK_OF_A_USER].find(works) ?? null;
  const processes = network === NETWORK_OF_A_USER && bindsProcesses() ? PROCESSES : null;
  taken = { limits: works(LIMITS), network, processes, privileges: [PRIVILEGES, NO_NEW_PRIVILEGES].find(works) ?? null };
  return taken;
}

/** What holds for every process under `confined` on this system. */
export function confinement(): Confinement {
  const { limits, network, processes, privileges } = measures();
  const found = [privileges?.words ?? null, network?.words ?? null, limits ? LIMITS.words : null, processes?.words ?? null];
  const wanted = [PRIVILEGES.words, NETWORK.words, LIMITS.words, PROCESSES.words];
  return { inForce: found.filter((words) => words !== null), missing: wanted.filter((_, index) => found[index] === null) };
}

/**
 * The command of a process that ends with this one, even when that is killed, has no network and no way to more rights, leaves no core, holds
 * at most `bytes` of memory beyond what an idle one reserves, and starts few processes and threads; `writes` false: it cannot write a file either. Each where the system allows it.
 */
export function confined(command: Command, { bytes, writes }: { bytes: number; writes: boolean }): Command {
  const { limits, network, processes, privileges } = measures();
  const rights = privileges?.prefix ?? [];
  const bounds = [
    PRLIMIT,
    `--data=${Math.min(BASE_BYTES + bytes, ownBytesMax())}`,
    `--nofile=${OPEN_FILES_MAX}`,
    '--core=0',
    ...(writes ? [] : ['--fsize=0']),
  ];
  // Innermost what asks for the parent's death: another program in between would take that away again.
  return [...(limits ? bounds : []), ...(network?.prefix ?? []), ...(processes?.prefix ?? []), ...rights, ...command] as unknown as Command;
}

/** Lowers the bound of a process that was started under `confined`, once it is known what it needs; of one that has ended, none. */
export async function limitMemory(pid: number, bytes: number): Promise<void> {
  if (!measures().limits) return;
  // A process that has ended is found out by its connection.
  await promisify(execFile)(PRLIMIT, ['--pid', String(pid), `--data=${BASE_BYTES + bytes}`]).catch(() => {});
}

/** Where memory runs out, the kernel ends this process before the server. */
export function endFirst(pid: number): void {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, String(OUT_OF_MEMORY_SCORE));
  } catch {
    // Another system, or it has ended meanwhile.
  }
}

/** Lets others go first on the processor. On Linux a priority is of a thread, so each gets its own; elsewhere it is of the process. */
export function lowerPriority(pid: number): void {
  for (const thread of existsSync('/proc/self/task') ? threadsOf(pid) : [pid]) {
    try {
      setPriority(thread, LOW_PRIORITY);
    } catch {
      // It has ended meanwhile.
    }
  }
}

/** Lets the other threads of this process go first, where threads have a priority of their own. */
export function lowerOwnPriority(): void {
  const own = '/proc/thread-self';
  if (existsSync(own)) setPriority(Number(basename(readlinkSync(own))), LOW_PRIORITY);
}

/** None of a process that has ended. */
function threadsOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map(Number);
  } catch {
    return [];
  }
}
