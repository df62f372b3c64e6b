import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import type { Dice } from '../fuzz/random.ts';
import { BackendMessages, type Deed, FrontendMessages, type Message } from './wire.ts';

/** Where in a settlement or COMMIT something happens: not sent yet, done but its answer withheld, its answer just handed on. */
export const POINTS = ['before the commit', 'after the commit', 'before the answer'] as const;
export type Point = (typeof POINTS)[number];

/** What befalls every connection while it lasts. */
export type Weather = {
  /** Of a message from the server, that the connection is reset instead. */
  resetChance: number;
  /** Each message waits up to so long. */
  delayMsMax: number;
  /** Bytes arrive 1 to 7 at a time. */
  sliced: boolean;
  /** Of a settlement or COMMIT, that it is done and its answer never arrives: the connection is reset. */
  loseChance: number;
};

const FAIR: Weather = { resetChance: 0, delayMsMax: 0, sliced: false, loseChance: 0 };
/** More than this of one message is not cut up: it would only take long. */
const SLICED_BYTES_MAX = 1024;

type Link = { client: Socket; upstream: Socket; frontend: FrontendMessages; atReady: ((answer: Buffer) => void) | null };

/** A TCP proxy between the server and Postgres, which knows settlements and does to them what it is told. */
export type FaultProxy = AsyncDisposable & {
  readonly port: number;
  /** Answers withheld so far. */
  readonly lost: number;
  /** Replaces the weather; what is not named is fair. */
  setWeather(weather: Partial<Weather>): void;
  /** Resets every connection now. */
  resetAll(): void;
  /**
   * Until it is ended, by what this returns, nothing comes through to a connection that listens, and nobody is told; then those are reset. The end returns how many
   * bytes did not come through.
   */
  deafen(): () => number;
  /** At the next such deed that comes to this point, `spring` is called with the port that the server process speaks from; once. */
  atPoint(point: Point, deed: Deed, spring: (clientPort: number) => void): Promise<void>;
  /** Keeps the next such deed from the database: `kept` resolves when it has come, and `letGo` lets it go on. */
  keepBack(deed: Deed): { kept: Promise<void>; letGo(): void };
};

export async function openProxy(upstreamPort: number, dice: Dice): Promise<FaultProxy> {
  const links = new Set<Link>();
  let weather = FAIR;
  let trap: { point: Point; deed: Deed; spring: (clientPort: number) => void } | null = null;
  let barrier: { deed: Deed; reached(): void; open: Promise<void> } | null = null;
  let lost = 0;
  let deaf = false;
  let unheard = 0;

  function cut(link: Link): void {
    links.delete(link);
    link.client.resetAndDestroy();
    link.upstream.destroy();
  }

  /** Takes the trap where it is set for this point. */
  function trapAt(point: Point, deed: Deed | null) {
    if (deed === null || trap?.deed !== deed || trap.point !== point) return null;
    const taken = trap;
    trap = null;
    return taken;
  }

  function portOf(link: Link): number {
    return link.client.remotePort ?? 0;
  }

  /** What is to be done once the database has answered this message; null: nothing. */
  function afterwards(link: Link, deed: Deed): Link['atReady'] {
    const done = trapAt('after the commit', deed);
    if (done) {
      return () => {
        done.spring(portOf(link));
        cut(link);
      };
    }
    const told = trapAt('before the answer', deed);
    if (told) {
      return (answer) => {
        link.client.write(answer);
        told.spring(portOf(link));
      };
    }
    if (dice.next() >= weather.loseChance) return null;
    return () => {
      lost++;
      cut(link);
    };
  }

  async function send(link: Link, { bytes, deed }: Message): Promise<void> {
    if (deed !== null && barrier?.deed === deed) {
      const { reached, open } = barrier;
      barrier = null;
      reached();
      await open;
    }
    const early = trapAt('before the commit', deed);
    if (early) {
      early.spring(portOf(link));
      return cut(link);
    }
    if (weather.resetChance > 0 && dice.next() < weather.resetChance) return cut(link);
    if (deed !== null) link.atReady = afterwards(link, deed);
    await deliver(link.upstream, bytes);
  }

  async function deliver(to: Socket, bytes: Buffer): Promise<void> {
    if (weather.delayMsMax > 0) await sleep(dice.next() * weather.delayMsMax);
    if (!weather.sliced) {
      to.write(bytes);
      return;
    }
    let at = 0;
    while (at < Math.min(bytes.length, SLICED_BYTES_MAX)) {
      const next = at + 1 + dice.below(7);
      to.write(bytes.subarray(at, next));
      at = next;
      await turn();
    }
    if (at < bytes.length) to.write(bytes.subarray(at));
  }

  function onConnection(client: Socket): void {
    const upstream = connect({ port: upstreamPort, host: '127.0.0.1', noDelay: true });
    const frontend = new FrontendMessages();
    const link: Link = { client, upstream, frontend, atReady: null };
    links.add(link);
    const backend = new BackendMessages();
    let held: Buffer[] = [];
    let sending = Promise.resolve();
    let answering = Promise.resolve();
    client.on('data', (chunk: Buffer) => {
      for (const message of frontend.take(chunk)) sending = sending.then(() => send(link, message));
    });
    upstream.on('data', (chunk: Buffer) => {
      if (deaf && frontend.listens) {
        unheard += chunk.length;
        return;
      }
      for (const { bytes, ready } of backend.take(chunk)) {
        const { atReady } = link;
        if (atReady === null) {
          answering = answering.then(() => deliver(client, bytes));
          continue;
        }
        held.push(bytes);
        if (!ready) continue;
        link.atReady = null;
        atReady(Buffer.concat(held));
        held = [];
      }
    });
    client.on('close', () => {
      links.delete(link);
      void sending.then(() => upstream.end());
    });
    upstream.on('close', () => {
      links.delete(link);
      void answering.then(() => client.destroy());
    });
    // A lost connection is what this is for; 'close' follows.
    client.on('error', () => undefined);
    upstream.on('error', () => undefined);
  }

  const server = createServer({ noDelay: true }, onConnection);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    get lost() {
      return lost;
    },
    setWeather(given) {
      weather = { ...FAIR, ...given };
    },
    resetAll() {
      for (const link of [...links]) cut(link);
    },
    deafen() {
      [deaf, unheard] = [true, 0];
      return () => {
        deaf = false;
        for (const link of [...links]) if (link.frontend.listens) cut(link);
        return unheard;
      };
    },
    atPoint(point, deed, spring) {
      return new Promise((resolve) => {
        trap = {
          point,
          deed,
          spring: (clientPort) => {
            spring(clientPort);
            resolve();
          },
        };
      });
    },
    keepBack(deed) {
      const [kept, open] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      barrier = { deed, reached: kept.resolve, open: open.promise };
      return { kept: kept.promise, letGo: open.resolve };
    },
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => server.close(resolve));
      for (const link of [...links]) cut(link);
      await closed;
    },
  };
}
