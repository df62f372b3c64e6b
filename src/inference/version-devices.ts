import { setTimeout as sleep } from 'node:timers/promises';
import { MercatoError } from '../base/errors.ts';
import type { DeviceChain } from './devices.ts';
import { FailingDevices } from './failing-devices.ts';
import type { LoadableVersion, VersionDevices } from './fleet-port.ts';
import type { Hardware, SeenOn } from './hardware.ts';

/** How long who asks for a version waits until its samples are answered here. */
const SAMPLES_WAIT_MS = 30_000;
const UNANSWERED_RETRY_MS = 2_000;

/** `VersionDevices` of this host, by their names. */
type Known = { passedOver: readonly string[]; verifiedOn: readonly string[] | null };

/** Which devices of the host may run each version: by what it was read with, by what was said of it since, and by what failed of late. */
export class DevicesOfVersions {
  readonly #devices: Promise<DeviceChain>;
  readonly #hardware: Promise<Hardware>;
  readonly #failing = new FailingDevices();
  /** Since what a version was read with. */
  readonly #said = new Map<string, VersionDevices>();
  /** Resolved when something is said of a version, or it is of no use to wait. */
  readonly #waiting = new Map<string, PromiseWithResolvers<void>>();

  constructor({ devices, hardware }: { devices: Promise<DeviceChain>; hardware: Promise<Hardware> }) {
    this.#devices = devices;
    this.#hardware = hardware;
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
    return (await this.#look(version)).allowed;
  }

  /** Those after `device`. OVERLOADED where there is none, and of some it is not known yet. */
  async after(version: LoadableVersion, device: string): Promise<readonly string[]> {
    const { devices, allowed, isDecided } = await this.#look(version);
    const next = allowed.filter((other) => devices.indexOf(other) > devices.indexOf(device));
    if (next.length === 0 && !isDecided) throw unanswered();
    return next;
  }

  /** As `of`, once there is one. OVERLOADED where no device answers the version's samples within 30 s, that is known, or `isOver` when woken. */
  async answering(version: LoadableVersion, isOver: () => boolean): Promise<readonly string[]> {
    const giveUpMs = performance.now() + SAMPLES_WAIT_MS;
    try {
      for (;;) {
        const woken = this.#wakingOf(version.id);
        const { allowed, isDecided } = await this.#look(version);
        const leftMs = giveUpMs - performance.now();
        if (allowed.length > 0) return allowed;
        if (leftMs <= 0 || isOver() || isDecided) throw unanswered();
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

  /** `allowed`: as `of`; `isDecided`: it is known of every device whether the version runs there. All of one moment. */
  async #look(version: LoadableVersion): Promise<{ devices: DeviceChain; allowed: readonly string[]; isDecided: boolean }> {
    const [devices, hardware] = await Promise.all([this.#devices, this.#hardware]);
    const known = knownOn(hardware, this.#said.get(version.id) ?? version);
    const allowed = mayRunOn(devices, known, (device) => this.#failing.has(version.id, device));
    const { passedOver, verifiedOn } = known;
    const isDecided = verifiedOn === null || devices.every((device) => passedOver.includes(device) || verifiedOn.includes(device));
    return { devices, allowed, isDecided };
  }
}

/** What was seen of other hardware than a device's here tells nothing of it. */
function knownOn(hardware: Hardware, { passedOver, verifiedOn }: VersionDevices): Known {
  const isHere = (one: SeenOn) => (one.hardware ?? hardware[one.device]) === hardware[one.device];
  const namesOf = (seen: readonly SeenOn[]) => seen.filter(isHere).map(({ device }) => device);
  return { passedOver: namesOf(passedOver), verifiedOn: verifiedOn && namesOf(verifiedOn) };
}

function unanswered(): MercatoError {
  const message = "The version was not seen to answer its publisher's samples on a device of this server.";
  return new MercatoError('OVERLOADED', message, { rule: 'SAMPLES_UNANSWERED', retryAfterMs: UNANSWERED_RETRY_MS });
}

/**
 * The devices that may run a version; where each of those that answer its samples was seen to fail, the last of them, and of one without samples the last of all. None where it is not known
 * of any whether it answers them.
 */
function mayRunOn(devices: DeviceChain, { passedOver, verifiedOn }: Known, isFailing: (device: string) => boolean): readonly string[] {
  const allowed = devices.filter((device) => !passedOver.includes(device) && (verifiedOn === null || verifiedOn.includes(device)));
  const left = allowed.filter((device) => !isFailing(device));
  if (left.length > 0) return left;
  return allowed.length > 0 || verifiedOn !== null ? allowed.slice(-1) : devices.slice(-1);
}
