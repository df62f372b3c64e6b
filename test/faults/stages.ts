import { Dice } from '../fuzz/random.ts';
import { type Ground, type Layout, openStage, type Stage } from './stage.ts';

/** The stage that faults do their work on one after another: as long as they ask for the same layout and environment, the same one. */
export class Stages implements AsyncDisposable {
  readonly ground: Ground;
  private readonly seed: number;
  private open: { key: string; stage: Stage } | null = null;

  constructor(ground: Ground, seed: number) {
    this.ground = ground;
    this.seed = seed;
  }

  async take(layout: Layout, env: Record<string, string> = {}): Promise<Stage> {
    const key = keyOf(layout, env);
    if (this.open?.key !== key) {
      await this.close();
      this.open = { key, stage: await openStage(this.ground, layout, new Dice(this.seed), env) };
    }
    return this.open.stage;
  }

  async close(): Promise<void> {
    const stage = this.open?.stage;
    this.open = null;
    await stage?.[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Equal where two may have the same stage. */
export function keyOf(layout: Layout, env: Record<string, string> = {}): string {
  return JSON.stringify([layout, env]);
}
