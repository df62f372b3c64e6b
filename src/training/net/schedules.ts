/** How the learning rate changes from epoch to epoch, as a factor of the first. */
export type ScheduleSpec =
  | { kind: 'STEP'; everyEpochs: number; factor: number }
  | { kind: 'EXPONENTIAL'; factor: number }
  | { kind: 'COSINE'; floor: number };

/** The factor of an epoch (from 1) of `epochs`: 1 in the first. Cosine ends at `floor` (Loshchilov and Hutter 2017, without restarts). */
export function scheduleFactor(schedule: ScheduleSpec | null, epoch: number, epochs: number): number {
  switch (schedule?.kind) {
    case undefined:
      return 1;
    case 'STEP':
      return schedule.factor ** Math.floor((epoch - 1) / schedule.everyEpochs);
    case 'EXPONENTIAL':
      return schedule.factor ** (epoch - 1);
    case 'COSINE': {
      const progress = epochs === 1 ? 0 : (epoch - 1) / (epochs - 1);
      return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + Math.cos(Math.PI * progress));
    }
  }
}
