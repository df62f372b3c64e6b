import type { DeviceChain } from './devices.ts';
import type { VersionDevices } from './fleet-port.ts';

/**
 * The devices that may run a version; where each of those that answer its samples was seen to fail, the last of them, and of one without samples the last of all. None where it is not known
 * of any whether it answers them.
 */
export function mayRunOn(
  devices: DeviceChain,
  { passedOver, verifiedOn }: VersionDevices,
  isFailing: (device: string) => boolean,
): readonly string[] {
  const allowed = devices.filter((device) => !passedOver.includes(device) && (verifiedOn === null || verifiedOn.includes(device)));
  const left = allowed.filter((device) => !isFailing(device));
  if (left.length > 0) return left;
  return allowed.length > 0 || verifiedOn !== null ? allowed.slice(-1) : devices.slice(-1);
}
