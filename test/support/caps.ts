import { asTenant } from '../../src/base/database.ts';
import type { LimitView } from '../../src/usage/usage.ts';
import { broken, type Core, type Process, type Right } from './core.ts';

export type GivenLimit = Partial<Parameters<Core['usage']['createLimit']>[1]>;

/** A limit of a consumer: of the units of a day, and hard, where `given` does not say otherwise. */
export function createLimit(core: Core, right: Right, given: GivenLimit): Promise<LimitView> {
  const plain = { name: 'cap', subject: 'TENANT', subjectId: null, measure: 'UNITS', window: 'DAY', burstUnits: null, hard: true } as const;
  return core.usage.createLimit(right.consumerTenantId, { ...plain, amount: 100n, alertPercents: null, ...given });
}

/** A change of a limit that changes nothing. */
export const NOTHING = { name: null, amount: null, burstUnits: null, hard: null, alertPercents: null };

export const limitsOf = (core: Core, right: Right) =>
  asTenant(core.db, right.consumerTenantId, (tx) => core.usage.limits(tx, right.consumerTenantId));
export const alertsOf = (core: Core, right: Right) =>
  asTenant(core.db, right.consumerTenantId, (tx) => core.usage.alerts(tx, right.consumerTenantId, { first: 10, afterId: null }));

/** What is broken once every lease is over and swept. A sweep passes by what a return on its way has locked: ask until nothing is. */
export async function brokenAtLast(core: Core, { leases }: Process): Promise<unknown[]> {
  await leases.maintain();
  return broken(core.db);
}
