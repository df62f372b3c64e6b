import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { promisify } from 'node:util';

export type Command = readonly [string, ...string[]];

/** Writable memory that Node with ONNX Runtime reserves, before it loads a model; 1.1 GiB measured on 2 cores, Nov 2026. */
const BASE_BYTES = 2 * 1024 ** 3;

/**
 * The command of a process that ends with this one, even when that is killed, leaves no core, and writes to at most `bytes` of memory beyond what
 * an idle one reserves: where the system has `setpriv` and `prlimit`.
 */
export function confined(command: Command, bytes: number): Command {
  let result = command;
  if (existsSync('/usr/bin/setpriv')) result = ['/usr/bin/setpriv', '--pdeathsig', 'KILL', ...result];
  if (existsSync('/usr/bin/prlimit')) result = ['/usr/bin/prlimit', `--data=${BASE_BYTES + bytes}`, '--core=0', ...result];
  return result;
}

/** Lowers the bound of a process that was started under `confined`, once it is known what it needs; where the system has `prlimit`. */
export async function limitMemory(pid: number, bytes: number): Promise<void> {
  if (existsSync('/usr/bin/prlimit')) await promisify(execFile)('/usr/bin/prlimit', ['--pid', String(pid), `--data=${BASE_BYTES + bytes}`]);
}
