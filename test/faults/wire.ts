/** What a message from the server to Postgres does, where it can change something: a settlement, or the COMMIT of a transaction that wrote such a row, or of another. */
export type Deed = 'settlement' | 'transfer' | 'api_key' | 'commit';

export type Message = { bytes: Buffer; deed: Deed | null };

const LENGTH_BYTES = 4;

/** Cuts what a client sends into whole messages, and knows a settlement (a parameter that names a lease), a COMMIT, prepared or not, and a LISTEN. */
export class FrontendMessages {
  private rest: Buffer = Buffer.alloc(0);
  private started = false;
  /** Whether there has been a LISTEN. */
  listens = false;
  /** Statements that are prepared, by their names. */
  private readonly prepared = new Map<string, Step>();
  /** What the COMMIT of the open transaction is. */
  private writes: Deed = 'commit';

  take(chunk: Buffer): Message[] {
    const found: Message[] = [];
    this.rest = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
    for (;;) {
      // The first message of a connection has no type.
      const typed = this.started ? 1 : 0;
      if (this.rest.length < typed + LENGTH_BYTES) return found;
      const size = typed + this.rest.readUInt32BE(typed);
      if (this.rest.length < size) return found;
      const bytes = this.rest.subarray(0, size);
      this.rest = this.rest.subarray(size);
      found.push({ bytes, deed: this.started ? this.deedOf(bytes) : null });
      this.started = true;
    }
  }

  private deedOf(bytes: Buffer): Deed | null {
    const type = String.fromCharCode(bytes[0] ?? 0);
    const strings = bytes.subarray(1 + LENGTH_BYTES);
    if (type === 'Q') {
      const sql = textAt(strings, 0);
      this.listens ||= /^\s*listen\s/i.test(sql);
      return this.done(stepOf(sql));
    }
    if (type === 'P') {
      const name = textAt(strings, 0);
      this.prepared.set(name, stepOf(textAt(strings, name.length + 1)));
    }
    if (type !== 'B') return null;
    if (bytes.includes('"lease_id"')) return 'settlement';
    return this.done(this.prepared.get(textAt(strings, textAt(strings, 0).length + 1)) ?? null);
  }

  private done(step: Step): Deed | null {
    if (step === null) return null;
    const { writes } = this;
    this.writes = step === 'begin' || step === 'commit' ? 'commit' : step;
    return step === 'commit' ? writes : null;
  }
}

/** What a statement is for a transaction; null: nothing. */
type Step = 'begin' | Exclude<Deed, 'settlement'> | null;

function stepOf(sql: string): Step {
  const [, word = '', table] = /^\s*(begin|commit|insert into (transfer|api_key))\b/i.exec(sql) ?? [];
  return (table ?? (word === '' ? null : word.toLowerCase())) as Step;
}

/** Cuts what Postgres sends into whole messages, and counts how often it has been ready for the next query. */
export class BackendMessages {
  private rest: Buffer = Buffer.alloc(0);

  /** Whole messages; `ready` is true of one after which the client may go on. */
  take(chunk: Buffer): { bytes: Buffer; ready: boolean }[] {
    const found: { bytes: Buffer; ready: boolean }[] = [];
    this.rest = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
    while (this.rest.length >= 1 + LENGTH_BYTES) {
      const size = 1 + this.rest.readUInt32BE(1);
      if (this.rest.length < size) break;
      const bytes = this.rest.subarray(0, size);
      this.rest = this.rest.subarray(size);
      found.push({ bytes, ready: bytes[0] === 'Z'.charCodeAt(0) });
    }
    return found;
  }
}

/** The C string at `from`. */
function textAt(bytes: Buffer, from: number): string {
  const end = bytes.indexOf(0, from);
  return bytes.toString('latin1', from, end < 0 ? bytes.length : end);
}
