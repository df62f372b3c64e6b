import { ownerOfConnection } from './processes.ts';
import type { Point } from './proxy.ts';
import type { Stage } from './stage.ts';
import type { Deed } from './wire.ts';

/** Kills the server process whose deed is the next to come to this point, and resolves when there is another. `act` brings it there; without it, the load does. */
export async function killAt(stage: Stage, point: Point, deed: Deed, act?: () => Promise<unknown>): Promise<string[]> {
  let killed: number | undefined;
  const sprung = stage.proxy.atPoint(point, deed, (port) => {
    killed = ownerOfConnection(port, stage.proxy.port, stage.servers());
    if (killed !== undefined) stage.kill(killed);
  });
  const acting = act?.();
  await Promise.race(acting ? [sprung, acting] : [sprung]);
  await stage.recovered();
  await acting;
  return killed === undefined
    ? [`nobody was killed ${point} of a ${deed}: it did not come there, or whose connection it was could not be found`]
    : [];
}
