/** Of a device that fails: for so long after the last run that was seen to. */
const FAILING_MS = 600_000;
/** Of one it may be the input, and would be everybody's loss. */
const WHOSE_MIN = 2;

type Seen = { crashed: boolean; whose: Set<string>; untilMs: number };

/** Knows on which devices runs of a version fail that the next device answers. `nowMs`: of a monotonic clock. */
export class FailingDevices {
  readonly #nowMs: () => number;
  readonly #seen = new Map<string, Map<string, Seen>>();

  constructor(nowMs = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /** A run failed, as `FleetPort.fallBack` says. */
  add(versionId: string, device: string, who: string | null): void {
    this.#forgetOld();
    const devices = this.#seen.get(versionId) ?? new Map<string, Seen>();
    const { crashed, whose } = devices.get(device) ?? { crashed: false, whose: new Set<string>() };
    if (who !== null && whose.size < WHOSE_MIN) whose.add(who);
    devices.set(device, { crashed: crashed || who === null, whose, untilMs: this.#nowMs() + FAILING_MS });
    this.#seen.set(versionId, devices);
  }

  /** Whether a run crashed there, or runs of two failed, of late. */
  has(versionId: string, device: string): boolean {
    const seen = this.#seen.get(versionId)?.get(device);
    return seen !== undefined && this.#nowMs() < seen.untilMs && (seen.crashed || seen.whose.size >= WHOSE_MIN);
  }

  /** Those that a version's runs failed on of late, and for how long that counts. */
  of(versionId: string): { device: string; forMs: number }[] {
    const seen = [...(this.#seen.get(versionId) ?? [])];
    return seen
      .filter(([device]) => this.has(versionId, device))
      .map(([device, { untilMs }]) => ({ device, forMs: untilMs - this.#nowMs() }));
  }

  forget(versionId: string): void {
    this.#seen.delete(versionId);
  }

  #forgetOld(): void {
    for (const [versionId, devices] of this.#seen) {
      for (const [device, { untilMs }] of devices) if (untilMs <= this.#nowMs()) devices.delete(device);
      if (devices.size === 0) this.#seen.delete(versionId);
    }
  }
}
