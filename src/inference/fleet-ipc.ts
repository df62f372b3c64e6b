import type { ChildProcess } from 'node:child_process';
import type { MessagePort } from 'node:worker_threads';
import type { Place } from './connection.ts';
import { errorOf, type Failure, failureOf } from './failures.ts';
import type { FleetPort, Lender } from './fleet-port.ts';

/**
 * How the server processes of one host reach the fleet of the one that owns it, by the channel that a child has with its parent, and how a thread of one of them
 * does, by a port.
 */
const METHODS = [
  'claim',
  'devices',
  'hardware',
  'borrow',
  'lend',
  'deviceBytesOf',
  'giveBack',
  'count',
  'wasKilled',
  'lackedMemory',
  'fallBack',
  'setDevices',
  'unload',
  'scale',
  'status',
] as const;
type Method = (typeof METHODS)[number];
type Ask = { fleet: 'ask'; id: number; method: Method; args: unknown[] };
type Answer = { fleet: 'answer'; id: number; value?: unknown; failure?: Failure };
type Placed = { fleet: 'place'; versionId: string; place: Place };
/** The parent's end of a child's channel, as `cluster.Worker` and `ChildProcess` have it. */
export type Child = Pick<ChildProcess, 'send'> & {
  on(event: 'message', listener: (message: unknown) => void): unknown;
  once(event: 'exit', listener: () => void): unknown;
};

/** Answers what a child asks of the fleet, and gives back what it has borrowed when it ends. */
export function serveFleet(fleet: FleetPort, child: Child): void {
  let gone = false;
  child.once('exit', () => {
    gone = true;
  });
  const say = (message: Answer | Placed) => {
    // A child that has gone has no use for it.
    if (!gone) child.send(message, () => {});
  };
  const asker = answering(fleet, say);
  child.on('message', asker.hear);
  child.once('exit', asker.leave);
  child.once(
    'exit',
    fleet.onPlace((versionId, place) => say({ fleet: 'place', versionId, place })),
  );
}

/** As `serveFleet`, of what lends runners, and to whoever has the other end of a port. */
export function serveLender(lender: Lender, port: MessagePort): void {
  const asker = answering(lender, (message) => port.postMessage(message));
  port.on('message', asker.hear);
  port.once('close', asker.leave);
}

function answering(fleet: Partial<FleetPort>, say: (answer: Answer) => void): { hear(message: unknown): void; leave(): void } {
  const loans = new Set<string>();
  let gone = false;

  async function call(method: Method, args: unknown[]): Promise<unknown> {
    const work = fleet[method] as (...given: unknown[]) => Promise<unknown>;
    const value = await work.apply(fleet, args);
    if (method === 'giveBack') loans.delete(String(args[0]));
    if ((method === 'borrow' || method === 'lend') && value !== null) {
      const { id } = value as { id: string };
      if (gone) void fleet.giveBack?.(id);
      else loans.add(id);
    }
    return value;
  }

  return {
    hear(message) {
      if (!isAsk(message)) return;
      const { id, method, args } = message;
      call(method, args).then(
        (value) => say({ fleet: 'answer', id, value }),
        (error: unknown) => say({ fleet: 'answer', id, failure: failureOf(error) }),
      );
    },
    leave() {
      gone = true;
      for (const loan of loans) void fleet.giveBack?.(loan);
    },
  };
}

/** The fleet of the parent process, as a child sees it. */
export function connectFleet(parent: NodeJS.Process): FleetPort {
  const { fleet, hear } = asking((ask, failed) => parent.send?.(ask, (error: Error | null) => error && failed(error)));
  parent.on('message', hear);
  return fleet;
}

/** What lends runners at the other end of a port. */
export function connectLender(port: MessagePort): Lender {
  const { fleet, hear } = asking((ask) => port.postMessage(ask));
  port.on('message', hear);
  return fleet;
}

function asking(send: (ask: Ask, failed: (error: Error) => void) => void): { fleet: FleetPort; hear(message: unknown): void } {
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  const listeners = new Set<(versionId: string, place: Place) => void>();
  let asked = 0;

  function ask<T>(method: Method, ...args: unknown[]): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const id = ++asked;
      waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      send({ fleet: 'ask', id, method, args }, (error) => {
        waiting.delete(id);
        reject(error);
      });
    });
  }

  function hear(message: unknown): void {
    if (isPlaced(message)) for (const listener of listeners) listener(message.versionId, message.place);
    if (!isAnswer(message)) return;
    const { id, value, failure } = message;
    const call = waiting.get(id);
    waiting.delete(id);
    if (failure) call?.reject(errorOf(failure));
    else call?.resolve(value);
  }

  const fleet: FleetPort = {
    claim: (version, dead) => ask('claim', version, dead),
    devices: () => ask('devices'),
    hardware: () => ask('hardware'),
    borrow: (fileBytes, device, runBytes) => ask('borrow', fileBytes, device, runBytes ?? 0),
    lend: (version, device) => ask('lend', version, device),
    deviceBytesOf: (loanId) => ask('deviceBytesOf', loanId),
    giveBack: (loanId) => ask('giveBack', loanId),
    count: (versionId, calls) => ask('count', versionId, calls),
    wasKilled: (path) => ask('wasKilled', path),
    lackedMemory: (path) => ask('lackedMemory', path),
    fallBack: (versionId, device, who) => ask('fallBack', versionId, device, who),
    setDevices: (versionId, devices) => ask('setDevices', versionId, devices),
    unload: (versionId) => ask('unload', versionId),
    scale: (versionId, bounds) => ask('scale', versionId, bounds),
    status: () => ask('status'),
    onPlace(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  return { fleet, hear };
}

function kindOf(message: unknown): string | null {
  return typeof message === 'object' && message !== null && 'fleet' in message ? String(message.fleet) : null;
}

const isAsk = (message: unknown): message is Ask => kindOf(message) === 'ask' && METHODS.includes((message as Ask).method);
const isAnswer = (message: unknown): message is Answer => kindOf(message) === 'answer';
const isPlaced = (message: unknown): message is Placed => kindOf(message) === 'place';
