import { sqlState } from '../../src/base/database.ts';
import { MercatoError } from '../../src/base/errors.ts';
import type { NewTransfer } from '../../src/billing/ledger.ts';
import type { Books } from './books.ts';
import { CLEARING, FUNDING, PAYABLE, type Transfer, walletId } from './ledger.ts';
import { TENANTS } from './market.ts';
import type { Server, Servers } from './servers.ts';
import type { World } from './world.ts';

export type TransferStep = {
  kind: 'transfer';
  process: number;
  what: 'credit' | 'up' | 'down' | 'payout' | 'post' | 'void' | 'reverse' | 'again' | 'otherwise' | 'expire' | 'close';
  /** Of the tenants, or of what was sent before. */
  of: number;
  nanos: number;
  pending: boolean;
  timeoutMs: number | null;
};
type Request = { id: string; content: Partial<Transfer>; send(): Transfer };
const TRIES = 8;
const PERIOD_CLOSED = 'MC003';

/** Who writes transfers: sends each again, under its id, until its end is known, and knows whether what it is told is right. */
export class Desk {
  readonly wrong: string[] = [];
  unresolved = 0;
  private readonly sent: Request[] = [];
  private readonly world: World;
  private readonly books: Books;
  private readonly servers: Servers;

  constructor(world: World, books: Books, servers: Servers) {
    [this.world, this.books, this.servers] = [world, books, servers];
  }

  step(server: Server, step: TransferStep): void {
    if (!server.process.alive) return;
    if (step.what === 'expire') void this.upkeep(server, () => this.books.ledger.expire());
    else if (step.what === 'close') void this.upkeep(server, () => this.books.closeDue());
    else {
      const request = this.requestOf(step);
      if (!request) return;
      this.sent.push(request);
      void this.send(server, request, TRIES);
    }
  }

  /** What the server does by itself from time to time. */
  private async upkeep({ process }: Server, work: () => void): Promise<void> {
    await this.servers.transaction(process, work).catch(() => {});
  }

  private requestOf({ what, of, nanos, pending, timeoutMs }: TransferStep): Request | null {
    const { ledger } = this.books;
    const id = newIdOf(this.world);
    const note = null;
    const known = this.sent[Math.min(of, this.sent.length - 1)];
    if (what === 'post' || what === 'void') {
      const pendingId = known?.id ?? id;
      if (what === 'void')
        return { id, content: { phase: 'VOID_PENDING', pendingId }, send: () => ledger.resolve('VOID_PENDING', { id, pendingId, note }) };
      const amountNanos = nanos % 2 === 0 ? null : BigInt(nanos);
      const content = { phase: 'POST_PENDING' as const, pendingId, ...(amountNanos === null ? {} : { amountNanos }) };
      return { id, content, send: () => ledger.resolve('POST_PENDING', { id, pendingId, amountNanos, note }) };
    }
    if (what === 'reverse') {
      const all = [...ledger.transfers.keys()];
      const reversesId = all[Math.min(of, all.length - 1)] ?? id;
      return { id, content: { reversesId, kind: 'REVERSAL' }, send: () => ledger.reverse({ id, reversesId, note }) };
    }
    if (what === 'again') return known ?? null;
    if (what === 'otherwise') return known ? this.created(known.id, 'up', of, nanos + 1, false, null) : null;
    return this.created(id, what, of, nanos, pending, timeoutMs);
  }

  private created(id: string, what: TransferStep['what'], of: number, nanos: number, pending: boolean, timeoutMs: number | null): Request {
    const wallet = walletId(TENANTS[of % TENANTS.length] ?? '');
    const ends = {
      credit: ['CREDIT', FUNDING, wallet],
      up: ['ADJUSTMENT', FUNDING, wallet],
      down: ['ADJUSTMENT', wallet, FUNDING],
      payout: ['PAYOUT', PAYABLE, CLEARING],
    } as const;
    const [kind, debitAccountId, creditAccountId] = ends[what as keyof typeof ends];
    const isPending = pending && kind !== 'CREDIT';
    const request: NewTransfer = {
      ...{ id, kind, debitAccountId, creditAccountId, amountNanos: BigInt(nanos), pending: isPending },
      ...{ timeoutMs: isPending ? timeoutMs : null, note: null },
    };
    const content: Partial<Transfer> = {
      kind,
      phase: isPending ? 'PENDING' : 'POSTED',
      debitAccountId,
      creditAccountId,
      amountNanos: BigInt(nanos),
    };
    return { id, content, send: () => this.books.ledger.create(request) };
  }

  private async send(server: Server, request: Request, tries: number): Promise<void> {
    this.unresolved++;
    const { process } = server;
    let ended = false;
    const end = (again: boolean): void => {
      if (ended) return;
      ended = true;
      this.unresolved--;
      const { alive } = this.servers;
      const next = alive[this.world.below(alive.length)];
      if (again && next && tries > 0) this.world.at(this.world.now + this.world.below(300), () => void this.send(next, request, tries - 1));
    };
    const watch = (): void => {
      if (ended) return;
      if (process.alive) this.world.at(this.world.now + 1_000, watch);
      else end(true);
    };
    watch();
    await this.servers
      .transaction(process, () => this.asked(request))
      .then(
        (row) => {
          end(false);
          if (!isSame(this.books.ledger.transfers.get(row.id), request.content))
            this.wrong.push(`${request.id} was acknowledged and is not there so`);
        },
        (error: unknown) => end(!(error instanceof MercatoError) && sqlState(error) === undefined),
      );
  }

  /** One request in its transaction. A refusal must be true, and leave nothing behind. */
  private asked(request: Request): Transfer {
    const { ledger } = this.books;
    const [before, number] = [ledger.transfers.get(request.id), ledger.transfers.size];
    try {
      return request.send();
    } catch (error) {
      const rule = error instanceof MercatoError ? error.data.rule : sqlState(error);
      if (ledger.transfers.size !== number) this.wrong.push(`${request.id} was refused, ${rule}, and is there`);
      if ((rule === 'IDEMPOTENCY_CONFLICT') !== (before !== undefined))
        this.wrong.push(`${request.id} was refused, ${rule}, which was not true`);
      if (rule === PERIOD_CLOSED && !ledger.closed.has(this.books.period())) this.wrong.push('a period was called closed that is open');
      throw error;
    }
  }
}

const isSame = (row: Transfer | undefined, content: Partial<Transfer>) =>
  row !== undefined && Object.entries(content).every(([field, value]) => row[field as keyof Transfer] === value);

/** An id of the form that the ledger takes, from the schedule's seed. */
const newIdOf = (world: World) =>
  `00000000-0000-7000-8000-${world
    .below(2 ** 48)
    .toString(16)
    .padStart(12, '0')}`;
