import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** The processes that answer calls: the children of a parent that are server processes, or itself where it has none. */
export function serversOf(parent: number): number[] {
  const children = childrenOf(parent, 'src/main.ts');
  return children.length > 0 ? children : [parent];
}

/** The processes that models run in, loaded or spare. */
export function runnersOf(parent: number): number[] {
  return childrenOf(parent, 'inference/runner.ts');
}

/** Those that run a file and have not ended. */
function childrenOf(parent: number, file: string): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => {
      const stat = read(`/proc/${pid}/stat`).split(') ')[1]?.split(' ') ?? [];
      return pid > 0 && Number(stat[1]) === parent && stat[0] !== 'Z' && read(`/proc/${pid}/cmdline`).includes(file);
    });
}

/**
 * Which of the processes has the TCP connection from this loopback port to that one; undefined: none. The port it comes from is not enough: one that is
 * closed, or goes elsewhere, may have the same.
 */
export function ownerOfConnection(from: number, to: number, processes: readonly number[]): number | undefined {
  const ends = [from, to].map((port) => `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`).join();
  const line = read('/proc/net/tcp')
    .split('\n')
    .map((text) => text.trim().split(/\s+/))
    .find(([, local, remote]) => `${local},${remote}` === ends);
  const socket = `socket:[${line?.[9]}]`;
  return processes.find((pid) => descriptorsOf(pid).includes(socket));
}

function descriptorsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkOf(`/proc/${pid}/fd/${fd}`));
  } catch {
    return [];
  }
}

function readlinkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}

/** Empty where it ended while it was looked at. */
function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
