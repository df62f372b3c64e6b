import type { Predicted } from '../support/client.ts';

/** What came of one attempt. Unknown: no answer came, or the server itself does not know. Unsent: nobody listened. */
export type Outcome = { answered: Predicted } | { refused: string } | { unknown: string } | { unsent: true };

/** A call as its caller knows it; every attempt has the same key. */
export type Entry = {
  readonly key: string;
  attempts: number;
  answer: { id: string; amountNanos: bigint; said: string } | null;
  /** Attempts without an answer. */
  unknown: number;
  refused: string[];
  /** Another answer than the first. */
  differs: boolean;
  /** The first answer that came was that of an earlier attempt, which had got none. */
  foundStored: boolean;
};

/** The driver's own books: what was asked, and what came back. */
export class Journal {
  readonly entries: Entry[] = [];
  /** When each call was first answered, by `performance.now()`. */
  readonly answeredAtMs: number[] = [];
  private readonly prefix: string;

  constructor(prefix: string) {
    this.prefix = prefix;
  }

  issue(): Entry {
    const key = `${this.prefix}-${this.entries.length}`;
    const entry: Entry = { key, attempts: 0, answer: null, unknown: 0, refused: [], differs: false, foundStored: false };
    this.entries.push(entry);
    return entry;
  }

  note(entry: Entry, outcome: Outcome): void {
    entry.attempts++;
    if ('unknown' in outcome) entry.unknown++;
    else if ('refused' in outcome) entry.refused.push(outcome.refused);
    else if ('answered' in outcome) this.answered(entry, outcome.answered);
  }

  private answered(entry: Entry, { id, usage, outputs, replayed }: Predicted): void {
    const answer = { id: uuidOf(id), amountNanos: BigInt(usage.amount.nanos), said: JSON.stringify([outputs, usage.units]) };
    if (entry.answer === null) {
      entry.answer = answer;
      entry.foundStored = replayed;
      this.answeredAtMs.push(performance.now());
    } else if (entry.answer.id !== answer.id || entry.answer.said !== answer.said || entry.answer.amountNanos !== answer.amountNanos) {
      entry.differs = true;
    }
  }

  get acknowledged(): number {
    return this.answeredAtMs.length;
  }

  /** Calls that were at some time without an answer. */
  get unknown(): number {
    return this.entries.filter((entry) => entry.unknown > 0).length;
  }

  unresolved(): Entry[] {
    return this.entries.filter((entry) => entry.answer === null);
  }

  /** How often each code was the answer. */
  refusals(): Map<string, number> {
    const counts = new Map<string, number>();
    for (const code of this.entries.flatMap((entry) => entry.refused)) counts.set(code, (counts.get(code) ?? 0) + 1);
    return counts;
  }
}

/** Of a global id, which is base64 of its type, a colon and the UUID. */
export function uuidOf(globalId: string): string {
  return Buffer.from(globalId, 'base64url').toString().split(':')[1] ?? '';
}
