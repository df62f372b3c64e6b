import { setTimeout as sleep } from 'node:timers/promises';
import { MercatoError } from '../base/errors.ts';
import type { DeviceChain } from './devices.ts';
import { FailingDevices } from './failing-devices.ts';
import type { LoadableVersion, VersionDevices } from './fleet-port.ts';

/** How long who asks for a version waits until its samples are answered here. */
const SAMPLES_WAIT_MS = 30_000;
const UNANSWERED_RETRY_MS = 2_000;

/** Which devices of the host may run each version: by what it was read with, by what was said of it since, and by what failed of late. */
export class DevicesOfVersions {
  readonly #devices: Promise<DeviceChain>;
  readonly #failing = new FailingDevices();
  /** Since what a version was read with. */
  readonly #said = new Map<string, VersionDevices>();
  /** Resolved when something is said of a version, or it is of no use to wait. */
  readonly #waiting = new Map<string, PromiseWithResolvers<void>>();

  constructor(devices: Promise<DeviceChain>) {
    this.#devices = devices;
  }

  /** As `FleetPort.setDevices`. */
  set(versionId: string, devices: VersionDevices): void {
    this.#said.set(versionId, devices);
    this.wake(versionId);
  }

  /** A run failed, as `FleetPort.fallBack` says: whether the version is to leave the device, and whether it was before. */
  fail(versionId: string, device: string, who: string | null): { leaves: boolean; left: boolean } {
    const left = this.#failing.has(versionId, device);
    this.#failing.add(versionId, device, who);
    return { leaves: this.#failing.has(versionId, device), left };
  }

  /** Devices that a version left since its runs failed there, and for how long. */
  leftBy(versionId: string): { device: string; forMs: number }[] {
    return this.#failing.of(versionId);
  }

  /** What failed counts no more. */
  forgive(versionId: string): void {
    this.#failing.forget(versionId);
  }

  /** In their order; none where it is not known of any whether it answers the version's samples. */
  async of(version: LoadableVersion): Promise<readonly string[]> {
    return mayRunOn(await this.#devices, this.#knownOf(version), (device) => this.#failing.has(version.id, device));
  }

  /** Those after `device`. OVERLOADED where there is none, and of some it is not known yet. */
  async after(version: LoadableVersion, device: string): Promise<readonly string[]> {
    const devices = await this.#devices;
    const next = (await this.of(version)).filter((other) => devices.indexOf(other) > devices.indexOf(device));
    if (next.length === 0 && !(await this.#isDecided(version))) throw unanswered();
    return next;
  }

  /** As `of`, once there is one. OVERLOADED where no device answers the version's samples within 30 s, that is known, or `isOver` when woken. */
  async answering(version: LoadableVersion, isOver: () => boolean): Promise<readonly string[]> {
    const giveUpMs = performance.now() + SAMPLES_WAIT_MS;
    try {
      for (;;) {
        const woken = this.#wakingOf(version.id);
        const devices = await this.of(version);
        const leftMs = giveUpMs - performance.now();
        if (devices.length > 0) return devices;
        if (leftMs <= 0 || isOver() || (await this.#isDecided(version))) throw unanswered();
        await Promise.race([woken, sleep(leftMs, undefined, { ref: false })]);
      }
    } finally {
      this.wake(version.id);
    }
  }

  /** Who waits for a version looks again. */
  wake(versionId: string): void {
    this.#waiting.get(versionId)?.resolve();
    this.#waiting.delete(versionId);
  }

  #wakingOf(versionId: string): Promise<void> {
    const waking = this.#waiting.get(versionId) ?? Promise.withResolvers<void>();
    this.#waiting.set(versionId, waking);
    return waking.promise;
  }

  #knownOf(version: LoadableVersion): VersionDevices {
    return this.#said.get(version.id) ?? version;
  }

  /** Whether it is known of every device whether the version runs there. */
  async #isDecided(version: LoadableVersion): Promise<boolean> {
    const { passedOver, verifiedOn } = this.#knownOf(version);
    return verifiedOn === null || (await this.#devices).every((device) => passedOver.includes(device) || verifiedOn.includes(device));
  }
}

function unanswered(): MercatoError {
  const message = "The version was not seen to answer its publisher's samples on a device of this server.";
  return new MercatoError('OVERLOADED', message, { retryAfterMs: UNANSWERED_RETRY_MS });
}

/**
 * The devices that may run a version; where each of those that answer its samples was seen to fail, the last of them, and of one without samples the last of all. None where it is not known
 * of any whether it answers them.
 */
function mayRunOn(
  devices: DeviceChain,
  { passedOver, verifiedOn }: VersionDevices,
  isFailing: (device: string) => boolean,
): readonly string[] {
  const allowed = devices.filter((device) => !passedOver.includes(device) && (verifiedOn === null || verifiedOn.includes(device)));
  const left = allowed.filter((device) => !isFailing(device));
  if (left.length > 0) return left;
  return allowed.length > 0 || verifiedOn !== null ? allowed.slice(-1) : devices.slice(-1);
}
