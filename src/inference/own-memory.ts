import { readFileSync } from 'node:fs';

/** Bytes that this process holds for itself now, and the most that it was seen to have held. */
export type OwnMemory = { memoryBytes: number; peakBytes: number };

let mostBytes = 0;

/**
 * What ending this process gives back. The code of Node and ONNX Runtime is in memory once for all runners of a host, and is not in it on
 * Linux (proc_pid_status(5)): resident pages less those of files; elsewhere all that is resident.
 */
export function ownMemory(): OwnMemory {
  const status = readStatus();
  const of = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) * 1024;
  const [resident, peak, files] = [of('VmRSS'), of('VmHWM'), of('RssFile')];
  if (Number.isFinite(resident + peak + files)) {
    // The kernel knows the peak with its files only, of which there may be more by now.
    mostBytes = Math.max(mostBytes, resident - files, peak - files);
    return { memoryBytes: resident - files, peakBytes: mostBytes };
  }
  // The kernel counts the peak in KiB.
  return { memoryBytes: process.memoryUsage.rss(), peakBytes: process.resourceUsage().maxRSS * 1024 };
}

function readStatus(): string {
  try {
    return readFileSync('/proc/self/status', 'utf8');
  } catch {
    return '';
  }
}
