import { type Guard, guardsOf } from '../guard.ts';

const PREDICT = 'api/predict';
const CATALOG = 'database/catalog';

/** Of the call itself, and of the right to it. */
export const callChecks: Guard[] = [
  {
    name: 'a retry whose key cannot be looked up is not refused for good',
    kind: 'code',
    edits: [
      {
        file: 'src/prediction/prediction.ts',
        find: "throw new MercatoError('OVERLOADED', 'Whether the key was answered before could not be looked up; try again with it.', {",
        put: "if (log === null) throw new MercatoError('OVERLOADED', '', {",
      },
    ],
    tests: ['test/api/predict.test.ts'],
    postgres: true,
  },
  {
    name: 'a call whose client hangs up after the model ran is billed',
    kind: 'code',
    edits: [
      {
        file: 'src/prediction/prediction.ts',
        find: 'settlement.settle({ admission, metered, keyed });',
        put: 'settlement.settle({ admission, metered, keyed, signal: call.caller.signal } as never);',
      },
      {
        file: 'src/prediction/settlement.ts',
        find: '        const group = queue.slice(0, groupSize(queue));\n',
        put: `        const left = (item: Item) => (item as unknown as { signal: AbortSignal }).signal.aborted;
        for (const item of queue.filter(left)) refuse(item, new MercatoError('CANCELLED'));
        queue = queue.filter((item) => !left(item));
        const group = queue.slice(0, groupSize(queue));\n`,
      },
    ],
    tests: ['test/api/hang-up.test.ts'],
    postgres: true,
  },
  {
    name: 'a call that is cancelled after the model ran is answered',
    kind: 'code',
    edits: [
      {
        file: 'src/prediction/prediction.ts',
        find: 'await settlement.settle({ admission, metered, keyed });',
        put: 'await inTime(settlement.settle({ admission, metered, keyed }), 60_000, call.caller.signal);',
      },
    ],
    tests: ['test/api/hang-up.test.ts'],
    postgres: true,
  },
  ...guardsOf('code', 'src/prediction/prediction.ts', PREDICT, [
    [
      'a tensor of the wrong form is told what the model wants',
      'throw new MercatoError(error.code, `${error.message} The model wants ${wanted}.`, { ...error.data, expected: wanted });',
      'throw error;',
    ],
    [
      'a deadline has bounds',
      "if (deadlineMs !== null && (deadlineMs < 1 || deadlineMs > LIMITS.deadlineMsMax)) {\n      throw badInput('deadlineMs'",
      "if (false) {\n      throw badInput('deadlineMs'",
    ],
    ["a call's key is in form", 'if (key !== null) checkIdempotencyKey(key);', ''],
    [
      "a cancelled call's key is in form",
      'cancel({ tenantId }: Principal, key: string): Promise<Cancellation> {\n    checkIdempotencyKey(key);',
      'cancel({ tenantId }: Principal, key: string): Promise<Cancellation> {',
      'api/cancel',
    ],
    ['a key in flight has one input', 'if (!first.digest.equals(keyed.digest)) throw keyConflict();', ''],
    [
      "a key in flight is its tenant's",
      'const { tenantId } = call.caller.principal;\n    const name = `${tenantId}:${keyed.key}`;',
      'const name = `${keyed.key}`;',
    ],
    ['a retry of an answered call is not refused', 'if (answer === null) throw refusal;', 'throw refusal;'],
    [
      'a call that failed gives its units back',
      'admission.giveBack(ran || (error instanceof MercatoError && SPENDING.has(error.code)));',
      '',
      'api/cancel',
    ],
  ]),
  ...guardsOf('code', 'src/prediction/prediction.ts', 'api/answers', [
    ['outputs are let into an answer before they are billed', 'admitAnswer(call.caller, result.outputs);', ''],
  ]),
  ...guardsOf('code', 'src/prediction/answers.ts', 'api/answers', [
    ['a text has a longest', 'if (chars > LIMITS.answerChars) {', 'if (false) {'],
  ]),
  ...guardsOf('code', 'src/prediction/answers.ts', 'unit/answers', [['answers take a bounded room', 'hold.grow(bytes);\n', '']]),
  ...guardsOf('code', 'src/base/held-bytes.ts', 'unit/held-bytes', [
    ['what is held is bounded', 'if (this.#bytes + bytes > this.#bytesMax) throw this.#full();', ''],
    ['half of what is held may be of one', 'if (bytes > 0 && left > this.#bytesMax / 2) throw this.#full();', ''],
    ['what is released holds nothing', 'if (released) return;\n', ''],
  ]),
  ...guardsOf('code', 'src/graphql/server.ts', 'api/bodies', [
    ['a body is of the tenant that sends it', 'if (principal !== null) request.bodyHold?.moveTo(principal.tenantId);', ''],
  ]),
  ...guardsOf('code', 'src/prediction/prediction.ts', 'api/suspension', [
    [
      'who calls a suspended version again and again waits',
      'await suspendedPace.hold(principal.tenantId, remainingOf(call, call.deadlineMs ?? entitlement.deadlineMs), signal);',
      '',
    ],
  ]),
  ...guardsOf('code', 'src/prediction/refusal-pace.ts', 'unit/refusal-pace', [
    ['what waits is bounded', 'if (ms <= 0 || this.held >= HELD_MAX) return;', 'if (ms <= 0) return;'],
    [
      'a refusal waits no longer than its call',
      'Math.min(this.turnMs(tenantId, performance.now()), mostMs)',
      'this.turnMs(tenantId, performance.now())',
    ],
    ['a refusal waits no longer than its bound', 'Math.min(dueMs + GAP_MS, nowMs + HOLD_MS_MAX)', 'dueMs + GAP_MS'],
    ['a caller that hangs up waits no more', 'sleep(ms, undefined, { signal })', 'sleep(ms)'],
  ]),
  ...guardsOf('code', 'src/prediction/cancellations.ts', 'api/cancel', [
    [
      'a call is stopped by its own tenant',
      'const nameOf = (tenantId: string, key: string) => `${tenantId}:${key}`;',
      'const nameOf = (_: string, key: string) => key;',
    ],
    [
      'the other processes are told to stop a call',
      'await asSystem(db, (tx) => tx.$executeRaw`select pg_notify(${CHANNEL}, ${name})`);',
      '',
    ],
  ]),
  ...guardsOf('code', 'src/prediction/resolvers.ts', 'unit/scopes', [
    [
      'predict asks for its scope',
      "authorize(ctx.principal, 'model:predict');\n      const prediction",
      'authorize(ctx.principal, null);\n      const prediction',
    ],
    [
      'cancelPrediction asks for its scope',
      "authorize(ctx.principal, 'model:predict');\n      return { state",
      'authorize(ctx.principal, null);\n      return { state',
    ],
  ]),
  ...guardsOf('code', 'src/prediction/audit.ts', 'database/audit', [
    [
      'an audit is of a tenant that there is',
      "if (!tenant) throw new MercatoError('NOT_FOUND', 'There is no tenant of this name.', { given: tenantName });",
      'if (!tenant) return runAudit(db);',
    ],
  ]),
  ...guardsOf('code', 'src/catalog/subscriptions.ts', CATALOG, [
    [
      'one subscription to a model is active',
      "throw new MercatoError('CONFLICT', 'You have an active subscription to this model already.');",
      'throw error;',
    ],
    [
      'nobody subscribes to an own model',
      "if (plan.publisherTenantId === tenantId)\n    throw new MercatoError('CONFLICT'",
      "if (false)\n    throw new MercatoError('CONFLICT'",
    ],
    ['a retired plan is not offered', "if (plan.retired) throw new MercatoError('CONFLICT', 'The plan is not offered any more.');", ''],
    ['an older version of a plan is not offered', 'if (plan.versions[0]?.id !== planVersionId) throw', 'if (false) throw'],
    [
      'a plan is of a listing that its buyer sees',
      'where: { id: planVersionId, plan: { listing: visibleListing(tenantId) } },',
      'where: { id: planVersionId },',
      'database/without-walls',
    ],
    ['a subscription ends once', "and state = 'ACTIVE' returning cancelled_at", 'returning cancelled_at'],
    [
      'every process knows of a subscription that ended',
      "answer may still be waiting for the other processes.\n    return { view, seq: await invalidations.publish(tx, 'subscription', [tenantId]) };",
      'answer may still be waiting for the other processes.\n    return { view, seq: 0n };',
    ],
  ]),
  ...guardsOf('code', 'src/catalog/entitlements.ts', CATALOG, [
    [
      "a model's name has a form",
      "if (named === null) {\n    throw badInput('model'",
      "if (named === null) {\n    if (false) throw badInput('model'",
    ],
    ['a model without a READY version is not called', 'if (newest === null) throw notFound(`${handle} has no READY version yet.`);', ''],
    [
      'a plan that sells an alias sells nothing else',
      "throw new MercatoError('NOT_SUBSCRIBED', `Your plan sells",
      "return asked; throw new MercatoError('NOT_SUBSCRIBED', `Your plan sells",
      'database/aliases',
    ],
    [
      'a model is called by who subscribed to it',
      "throw new MercatoError('NOT_SUBSCRIBED', `Subscribe to ${handle} before calling it.`);",
      'return { subscriptionId: null as never, terms: null as never };',
    ],
    [
      "a subscription is the caller's",
      "where: { consumerTenantId, listingId: id, state: 'ACTIVE' }",
      "where: { listingId: id, state: 'ACTIVE' }",
      'database/without-walls',
    ],
    [
      'a subscription that ended gives no right',
      "where: { consumerTenantId, listingId: id, state: 'ACTIVE' }",
      'where: { consumerTenantId, listingId: id }',
    ],
    [
      'an entitlement is forgotten with the subscription',
      "invalidations.on('subscription', (id) => memory.forget((known) => known.consumerTenantId === id));",
      '',
    ],
    [
      "an entitlement is forgotten with its listing's change",
      "invalidations.on('listing', (id) => memory.forget((known) => known.listingId === id));",
      '',
    ],
    ['an entitlement out of touch is read anew', 'if (!invalidations.isFresh()) return memory.fetch(key, load);', ''],
  ]),
];
