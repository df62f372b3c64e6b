/** What a message from the server to Postgres does, where it can change what is billed. */
export type Deed = 'settlement' | 'commit' | null;

export type Message = { bytes: Buffer; deed: Deed };

const LENGTH_BYTES = 4;

/** Cuts what a client sends into whole messages, and knows a settlement (a parameter that names a lease), a COMMIT, prepared or not, and a LISTEN. */
export class FrontendMessages {
  private rest: Buffer = Buffer.alloc(0);
  private started = false;
  /** Whether there has been a LISTEN. */
  listens = false;
  private readonly commits = new Set<string>();

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

  private deedOf(bytes: Buffer): Deed {
    const type = String.fromCharCode(bytes[0] ?? 0);
    const strings = bytes.subarray(1 + LENGTH_BYTES);
    if (type === 'Q') {
      const sql = textAt(strings, 0);
      this.listens ||= /^\s*listen\s/i.test(sql);
      return isCommit(sql) ? 'commit' : null;
    }
    if (type === 'P') {
      const name = textAt(strings, 0);
      if (isCommit(textAt(strings, name.length + 1))) this.commits.add(name);
      else this.commits.delete(name);
    }
    if (type !== 'B') return null;
    if (bytes.includes('"lease_id"')) return 'settlement';
    return this.commits.has(textAt(strings, textAt(strings, 0).length + 1)) ? 'commit' : null;
  }
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

function isCommit(sql: string): boolean {
  return /^\s*commit\s*;?\s*$/i.test(sql);
}

/** The C string at `from`. */
function textAt(bytes: Buffer, from: number): string {
  const end = bytes.indexOf(0, from);
  return bytes.toString('latin1', from, end < 0 ? bytes.length : end);
}
