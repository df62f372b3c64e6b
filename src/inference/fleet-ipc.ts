import type { ChildProcess } from 'node:child_process';
import { ERRORS, type ErrorCode, type ErrorData, MercatoError } from '../base/errors.ts';
import type { Place } from './connection.ts';
import type { FleetPort } from './fleet-port.ts';

/** How the server processes of one host reach the fleet of the one that owns it: the channel that a child has with its parent. */
const METHODS = [
  'claim',
  'devices',
  'borrow',
  'lend',
  'deviceBytesOf',
  'giveBack',
  'fallBack',
  'setDevices',
  'unload',
  'scale',
  'status',
] as const;
type Method = (typeof METHODS)[number];
type Ask = { fleet: 'ask'; id: number; method: Method; args: unknown[] };
type Failure = { code: ErrorCode | null; message: string; data: ErrorData };
type Answer = { fleet: 'answer'; id: number; value?: unknown; failure?: Failure };
type Placed = { fleet: 'place'; versionId: string; place: Place };
/** The parent's end of a child's channel, as `cluster.Worker` and `ChildProcess` have it. */
export type Child = Pick<ChildProcess, 'send'> & {
  on(event: 'message', listener: (message: unknown) => void): unknown;
  once(event: 'exit', listener: () => void): unknown;
};

/** Answers what a child asks of the fleet, and gives back what it has borrowed when it ends. */
export function serveFleet(fleet: FleetPort, child: Child): void {
  const loans = new Set<string>();
  let gone = false;
  const say = (message: Answer | Placed) => {
    // A child that has gone has no use for it.
    if (!gone) child.send(message, () => {});
  };

  async function call(method: Method, args: unknown[]): Promise<unknown> {
    const work = fleet[method] as (...given: unknown[]) => Promise<unknown>;
    const value = await work.apply(fleet, args);
    if (method === 'giveBack') loans.delete(String(args[0]));
    if ((method === 'borrow' || method === 'lend') && value !== null) {
      const { id } = value as { id: string };
      if (gone) void fleet.giveBack(id);
      else loans.add(id);
    }
    return value;
  }

  child.on('message', (message) => {
    if (!isAsk(message)) return;
    const { id, method, args } = message;
    call(method, args).then(
      (value) => say({ fleet: 'answer', id, value }),
      (error: unknown) => say({ fleet: 'answer', id, failure: failureOf(error) }),
    );
  });
  child.once('exit', () => {
    gone = true;
    for (const loan of loans) void fleet.giveBack(loan);
  });
  fleet.onPlace((versionId, place) => say({ fleet: 'place', versionId, place }));
}

/** The fleet of the parent process, as a child sees it. */
export function connectFleet(parent: NodeJS.Process): FleetPort {
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  const listeners: ((versionId: string, place: Place) => void)[] = [];
  let asked = 0;

  function ask<T>(method: Method, ...args: unknown[]): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const id = ++asked;
      waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      parent.send?.({ fleet: 'ask', id, method, args } satisfies Ask, (error: Error | null) => {
        if (error === null) return;
        waiting.delete(id);
        reject(error);
      });
    });
  }

  parent.on('message', (message: unknown) => {
    if (isPlaced(message)) for (const listener of listeners) listener(message.versionId, message.place);
    if (!isAnswer(message)) return;
    const { id, value, failure } = message;
    const call = waiting.get(id);
    waiting.delete(id);
    if (failure) call?.reject(errorOf(failure));
    else call?.resolve(value);
  });

  return {
    claim: (version, dead) => ask('claim', version, dead),
    devices: () => ask('devices'),
    borrow: (fileBytes, device) => ask('borrow', fileBytes, device),
    lend: (version, device) => ask('lend', version, device),
    deviceBytesOf: (loanId) => ask('deviceBytesOf', loanId),
    giveBack: (loanId) => ask('giveBack', loanId),
    fallBack: (versionId, device, who) => ask('fallBack', versionId, device, who),
    setDevices: (versionId, devices) => ask('setDevices', versionId, devices),
    unload: (versionId) => ask('unload', versionId),
    scale: (versionId, bounds) => ask('scale', versionId, bounds),
    status: () => ask('status'),
    onPlace: (listener) => void listeners.push(listener),
  };
}

function failureOf(error: unknown): Failure {
  if (error instanceof MercatoError) return { code: error.code, message: error.message, data: error.data };
  return { code: null, message: error instanceof Error ? error.message : String(error), data: {} };
}

function errorOf({ code, message, data }: Failure): Error {
  return code !== null && code in ERRORS ? new MercatoError(code, message, data) : new Error(message);
}

function kindOf(message: unknown): string | null {
  return typeof message === 'object' && message !== null && 'fleet' in message ? String(message.fleet) : null;
}

const isAsk = (message: unknown): message is Ask => kindOf(message) === 'ask' && METHODS.includes((message as Ask).method);
const isAnswer = (message: unknown): message is Answer => kindOf(message) === 'answer';
const isPlaced = (message: unknown): message is Placed => kindOf(message) === 'place';
