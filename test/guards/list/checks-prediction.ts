import { type Guard, guardsOf } from '../guard.ts';

const LIFE = 'database/lease-life';
const LEASES = 'concurrency/leases';
const LIMITS = 'database/limits';
const OUTCOMES = 'database/settlement-outcomes';

export const predictionChecks: Guard[] = [
  ...guardsOf('code', 'src/prediction/grants.ts', LEASES, [
    [
      "a counter's leases are of one plan version",
      'if (counter.leasedUnits > 0n && counter.planVersionId !== (terms?.planVersionId ?? null)) {',
      'if (false) {',
    ],
    [
      'a grant needs room in the quota',
      'counter.usedUnits + counter.leasedUnits + BigInt(need) <= quota) return null;',
      'counter.usedUnits <= quota) return null;',
    ],
    ['a grant needs credit', 'return moreHeld(terms, counter, wish.need) <= available ? wish.need : 0;', 'return wish.need;'],
    [
      'a grant needs room in the limits',
      'if (short) return { ...short, ...(await holdersOf',
      'if (short && false) return { ...(short as LimitShort), ...(await holdersOf',
      LIMITS,
    ],
    ['a grant needs room in the rate', 'if (taken?.granted === 0) {', 'if (false) {'],
    [
      'a grant without credit takes nothing of the rate',
      'if (rate && taken) await returnRequests(tx, key, rate, taken.granted);',
      '',
      LIFE,
    ],
    ['what is leased is held', 'if (accounts) await billing.holdIn(tx, accounts.walletId, moreHeld(terms, counter, units));', ''],
    ['a block ends with its lease', 'Math.min(LIMITS.leaseMs - MARGIN_MS, windowMs)', 'windowMs', LIFE],
    ['a block ends with its window', 'Math.min(LIMITS.leaseMs - MARGIN_MS, windowMs)', 'LIMITS.leaseMs - MARGIN_MS', LIFE],
    ["a publisher's own calls have a rate", 'if (terms === null) return OWN_RATE;', 'if (terms === null) return null;'],
    ['a quota is exhausted where it is used', 'counter.usedUnits >= quota ? { exhaustedMs', 'true ? { exhaustedMs'],
    [
      'a quota is exhausted until its month ends',
      '{ exhaustedMs: counter.windowMs }',
      '{ exhaustedMs: 10 * counter.windowMs + 1e15 }',
      LIFE,
    ],
    ['what is missing is recalled', 'if (recall && foreign) await recallLeases(tx, counter);', ''],
    [
      'what the wallet or a limit is missing is recalled',
      "if (granted.short !== 'RATE' && granted.foreign && recall) await recallLeases(tx, { ...counter, listingId: null });",
      '',
    ],
    ['what comes back is held no more', 'const delta = holdOf(terms, after) - holdOf(terms, before);', 'const delta = 0n;'],
  ]),
  ...guardsOf('code', 'src/prediction/lease-memory.ts', LEASES, [
    ['a block admits the units that it has', 'block.open && block.free >= units && block', 'block.open && block'],
    ['a block admits the calls in flight that it has', 'block.slotsFree >= 1 && ', '', LIMITS],
    ['a block admits the requests that it has', 'block.requestsLeft >= 1 && ', ''],
    ['a block admits while its lease lives', ' && now < block.usableUntil;', ';', LIFE],
    ['a call takes its units', 'block.free -= units;\n', ''],
    ['a call takes its request', 'block.requestsLeft -= 1;\n', ''],
    ['a call takes its place', 'block.slotsFree -= 1;\n', '', LIMITS],
    ['a call that ran has spent its request', 'if (!spent) block.requestsLeft += 1;', 'block.requestsLeft += 1;', LIFE],
    ['a call that did not run gives its request back', 'if (!spent) block.requestsLeft += 1;', '', LIFE],
    [
      'a call that ran after its block was closed has spent its request',
      'else if (!spent && rateOf(entry.key.terms)) entry',
      'else if (rateOf(entry.key.terms)) entry',
      LIFE,
    ],
    ['units that come free after their block was closed go back', 'owed.push(returnOf(block, unused, slots));', ''],
    ['only who asks for as much is refused', "short.short === 'RATE' || waiter.units >= need", 'true', LIFE],
  ]),
  ...guardsOf('code', 'src/prediction/leases.ts', LIMITS, [
    [
      'a change of limits returns the leases',
      'memory.owe(memory.close(entry));\n    }\n    returns.putBackOwed();',
      '}\n    returns.putBackOwed();',
    ],
    ['a change of limits forgets what was exhausted', 'entry.exhausted = null;', ''],
    ['a change of limits forgets who is limited', 'limited.delete(tenantId);', '', LIFE],
    ['what was granted before a change of limits is returned', 'if (epoch !== entry.epoch) {', 'if (false) {', LIFE],
    ['a change of limits is noticed by grants under way', 'entry.epoch++;', '', LIFE],
    [
      'who is limited is read anew where memory is not fresh',
      'invalidations.isFresh() ? limited.get(key.consumerTenantId) : undefined',
      'limited.get(key.consumerTenantId)',
      LIFE,
    ],
    ['who is limited is read anew where it changed meanwhile', 'if (before !== limitChanges) return learnLimited(tenantId);', '', LIFE],
    [
      'without the limits nothing is admitted',
      "throw new MercatoError('OVERLOADED', 'The limits could not be read; try again shortly.', { retryAfterMs: 1000 });",
      'return new Set<string>();',
      LIFE,
    ],
    ['a limited caller has leases of its own', 'id !== null && limited.has(id) ? id : null', 'null'],
    [
      'what is exhausted is so until its end',
      'if (entry.exhausted && now < entry.exhausted.until) throw',
      'if (entry.exhausted) throw',
      LIFE,
    ],
    ['a stopping process returns what it has', 'for (const entry of memory.all()) memory.owe(memory.close(entry));', '', LEASES],
    [
      'a grant that fails refuses who waits',
      'for (const waiter of entry.waiters.splice(0)) waiter.reject(refusal);',
      'entry.waiters.splice(0);',
      LIFE,
    ],
  ]),
  ...guardsOf('code', 'src/prediction/lease-returns.ts', LIFE, [
    ['what could not be returned is still owed', 'memory.owe(returned);\n', ''],
    ['a lease in flight is renewed', 'if (busy.length > 0) await store.renew(busy);', ''],
    ['a lease that is done is dropped', 'if (done.length > 0) await store.drop(done);', ''],
    ['expired leases are swept', 'await store.sweep();', '', LEASES],
    ['a recall returns what is unused', 'memory.owe(concerned.flatMap((entry) => memory.close(entry)));', '', LEASES],
    [
      'a recall marks no lease of which units are on their way',
      'while (underWay.size > 0) await Promise.all(underWay);',
      '',
      'simulation/simulation',
    ],
    ['a grant whose answer was lost is returned', 'memory.owe([memory.returnOf({ leaseId }, null, null)]);', '', 'simulation/simulation'],
    ['what is on the move is waited for', 'ended > before || underWay.size > 0', 'false', 'simulation/simulation'],
    ['requests that were not made go back', 'for (const entry of memory.all()) await putBackRequests(entry);', ''],
  ]),
  ...guardsOf('code', 'src/prediction/lease-refusals.ts', 'unit/limits', [
    ['a limit refuses what it has no room for', 'if (room.units < need || room.slots < 1) return', 'if (false) return'],
    ['a limit of calls in flight refuses', 'if (room.units < need || room.slots < 1) return', 'if (room.units < need) return'],
    ['a limit is exhausted where it is used', "window !== 'MINUTE' && used >= amount;", "window !== 'MINUTE';"],
  ]),
  ...guardsOf('code', 'src/prediction/lease-store.ts', LEASES, [
    [
      'what comes back is released in the wallets',
      'billing.hold(tx, await grants.holdsOf(tx, await change(tx)))',
      'void (await change(tx))',
    ],
  ]),
  ...guardsOf('code', 'src/prediction/settlement.ts', OUTCOMES, [
    [
      'what never began is refused',
      "if (neverStarted(error)) for (const item of group) refuse(item, new MercatoError('OVERLOADED', undefined, { retryAfterMs: 1000 }));\n      else if",
      'if',
    ],
    ['what is not known is found out', 'else if (!wasRefused(error)) await findOut(group, error);', ''],
    ["what was undone for another's sake is tried again", 'else if (again && wasVictim(error)) await writeGroup(group, false);', ''],
    ['it is tried again once', 'else if (again && wasVictim(error)) await', 'else if (wasVictim(error)) await'],
    ['one that fails does not fail the others', 'else if (group.length > 1) for (const item of group) await writeGroup([item]);', ''],
    [
      'a revoked key is told',
      "else refuse(item, new MercatoError('UNAUTHENTICATED', 'The API key was revoked or has expired.'));",
      'else item.resolve({ amountNanos: 0n, stored: null });',
    ],
    [
      'a lost key is not billed',
      "} else if (outcome?.outcome === 'LOST') lost.push(item);",
      "} else if (outcome?.outcome === 'LOST') item.resolve({ amountNanos: 0n, stored: null });",
    ],
    ['a lost key gives its units back', 'for (const item of lost) {\n      item.admission.giveBack();', 'for (const item of lost) {'],
    ['what is refused gives its units back', 'item.admission.giveBack();\n    item.reject(error);', 'item.reject(error);'],
    [
      'what is not known keeps its units',
      'item.admission.settled();\n      if (amountNanos',
      'item.admission.giveBack();\n      if (amountNanos',
    ],
    [
      'what was billed after all is answered',
      'if (amountNanos !== undefined) item.resolve({ amountNanos, stored: null });\n      else',
      '',
    ],
    [
      'what is not known is told so',
      "else item.reject(new MercatoError('OUTCOME_UNKNOWN', undefined, { predictionId: item.metered.id }));",
      '',
    ],
  ]),
  ...guardsOf('code', 'src/prediction/settlement-store.ts', OUTCOMES, [
    [
      'calls of one subscription and month have one charge',
      'const chargeId = charges.get(charge) ?? newId();',
      'const chargeId = newId();',
      'database/settlement-outcomes',
    ],
  ]),
  ...guardsOf('code', 'src/prediction/replays.ts', 'database/settlement', [
    ['a key has one input', 'if (!stored.digest.equals(digest)) throw keyConflict();', ''],
    [
      'an answer that is gone is told so',
      'if (stored.answer === null) {\n    throw new MercatoError',
      'if (false) {\n    throw new MercatoError',
    ],
    ['an answer is kept for its time', ' and r.expires_at > mercato_now()`', '`'],
    ['only what has expired is deleted', 'from replay where expires_at <= mercato_now() order', 'from replay order', OUTCOMES],
    ['what lies in the store is deleted too', 'for (const { storeKey } of rows) if (storeKey !== null) await store.delete(storeKey);', ''],
    ['a digest has the model', 'add(model);\n', '', OUTCOMES],
    ["a digest has a tensor's name", 'add(tensor.name);\n', '', OUTCOMES],
    ["a digest has a tensor's type", 'add(tensor.datatype);\n', '', OUTCOMES],
    ["a digest has a tensor's shape", "add(tensor.shape.join(','));\n", '', OUTCOMES],
    ["a digest has a tensor's data", 'add(tensor.data);\n', '', OUTCOMES],
    ['a digest has the outputs', "add(outputs === null ? 'all' : `only\\0${outputs.join('\\0')}`);", '', OUTCOMES],
    ['a digest has the lengths of its parts', 'hash.update(length).update(bytes);', 'hash.update(bytes);', OUTCOMES],
    ['a digest goes by name', 'inputs.toSorted((a, b) => (a.name < b.name ? -1 : 1))', 'inputs', OUTCOMES],
  ]),
];
