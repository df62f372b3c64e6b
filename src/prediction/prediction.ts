/**
 * The use cases that span contexts. `predict` is the one that the marketplace exists for: entitlement, quota, inference and bill in one
 * call. No database round trip before inference in steady state, one shared group commit after it.
 */
import type { Access, Principal } from '../access/access.ts';
import { assertNoTransaction, type Database } from '../base/database.ts';
import { badInput, ERRORS, MercatoError } from '../base/errors.ts';
import { checkIdempotencyKey } from '../base/idempotency.ts';
import { newId } from '../base/ids.ts';
import { LIMITS } from '../base/limits.ts';
import type { Log } from '../base/log.ts';
import type { Money } from '../base/money.ts';
import type { Billing } from '../billing/billing.ts';
import type { Catalog, Entitlement, ModelStore, ModelVersionView } from '../catalog/catalog.ts';
import {
  bytesOf,
  checkAgainst,
  type GivenTensor,
  type Inference,
  ModelKilled,
  parseInputs,
  type RunResult,
  type Tensor,
  wantedOf,
} from '../inference/inference.ts';
import { Answers, type Written } from './answers.ts';
import { openCancellations } from './cancellations.ts';
import type { Allowance } from './lease-refusals.ts';
import { createLeaseStore } from './lease-store.ts';
import { type Admission, createLeases } from './leases.ts';
import { inTime } from './patience.ts';
import { RefusalPace } from './refusal-pace.ts';
import { type Answer, createReplays, digestOf, keyConflict, replayOf, type Stored } from './replays.ts';
import { createSettlement, type Metered, type Settled } from './settlement.ts';
import { createSettlementStore } from './settlement-store.ts';

export { toBase64, toJson } from '../inference/inference.ts';
export { type Finding, runAuditOf } from './audit.ts';
export { createJobs } from './jobs.ts';
export type { Allowance } from './lease-refusals.ts';
export { sweepReplays } from './replays.ts';
export { writtenBy } from './written.ts';

export type PredictRequest = {
  model: string;
  inputs: readonly GivenTensor[];
  outputs: readonly string[] | null;
  idempotencyKey: string | null;
  deadlineMs: number | null;
};

/**
 * Who calls: `signal` aborts when the client hangs up; what `onAnswered` takes runs once the answer is handed to the socket or dropped, what `onGone`
 * takes once it has left or the client has; `written`: how the answer shows outputs; `onAllowances` is told what is left of the limits that concern the call, once it was let in or refused by one.
 */
export type Caller = {
  principal: Principal;
  signal: AbortSignal;
  onAnswered(fn: () => void): void;
  onGone(fn: () => void): void;
  written: Written;
  onAllowances(allowances: readonly Allowance[]): void;
};

export type Prediction = {
  id: string;
  modelVersionId: string;
  /** Null for a replay of another version than the entitlement's. */
  modelVersion: ModelVersionView | null;
  outputs: Tensor[];
  usage: { units: number; amount: Money };
  timing: { queueMs: number; computeMs: number; batchRows: number; device: string };
  replayed: boolean;
};

export type Predictions = AsyncDisposable & {
  /**
   * Runs a model and bills the call, or does neither. Bounds: at most 256 inputs of at most 2^26 elements, deadline 1–60000 ms, key 1–255
   * characters. The billing point is the runner's result: a failure before it gives the units back.
   * @throws in the order of the checks: BAD_USER_INPUT (form), NOT_FOUND, NOT_SUBSCRIBED, BAD_USER_INPUT (signature), MODEL_SUSPENDED, QUOTA_EXCEEDED,
   * RATE_LIMITED, INSUFFICIENT_CREDIT, OVERLOADED, DEADLINE_EXCEEDED, CANCELLED, MODEL_FAILED, BAD_USER_INPUT (outputs too long to be written so), UNAUTHENTICATED (revoked meanwhile),
   * IDEMPOTENCY_CONFLICT, IDEMPOTENCY_EXPIRED, OUTCOME_UNKNOWN. With a key that was answered before, none of the refusals between.
   */
  predict(caller: Caller, request: PredictRequest): Promise<Prediction>;
  /**
   * Stops the calls with a key of the principal's tenant that are in flight, in any process: one whose result has not arrived ends with
   * CANCELLED and is not billed; one whose result has is billed and answered as ever. BAD_USER_INPUT.
   */
  cancel(principal: Principal, idempotencyKey: string): Promise<Cancellation>;
  /** Resolves when no call is in flight and nothing waits to be settled. */
  idle(): Promise<void>;
};

/** STOPPED: a call of this process was told to; ANSWERED: the key's call was billed; TOLD: no call with the key is here, other processes were told. */
export type Cancellation = 'STOPPED' | 'ANSWERED' | 'TOLD';

export type PredictionOptions = {
  db: Database;
  access: Access;
  catalog: Catalog;
  billing: Billing;
  inference: Inference;
  store: ModelStore;
  replayHours: number;
  log: Log;
};

/** A parsed call. `digest` is of its key's use. */
type Call = {
  caller: Caller;
  model: string;
  inputs: Tensor[];
  outputs: readonly string[] | null;
  keyed: { key: string; digest: Buffer } | null;
  startedAt: number;
  deadlineMs: number | null;
};

const EXPIRE_MS = 60_000;
/** After these the model may have run: nothing is billed, but the request counts against the rate. */
const SPENDING: ReadonlySet<string> = new Set(['MODEL_FAILED', 'DEADLINE_EXCEEDED', 'CANCELLED']);

export async function createPredictions(options: PredictionOptions): Promise<Predictions> {
  const { db, access, catalog, billing, inference, log } = options;
  const leases = await createLeases({
    store: createLeaseStore({ db, billing, processId: access.processId }),
    invalidations: access.invalidations,
    log,
    connections: db.connections,
  });
  const replays = createReplays(options);
  const cancellations = await openCancellations(db);
  const suspendedPace = new RefusalPace();
  const answers = new Answers();
  const settlement = createSettlement({
    store: createSettlementStore({ ...options, replays }),
    inFlight: () => running - suspendedPace.held,
    log,
  });
  const inFlight = new Map<string, { digest: Buffer; done: Promise<Prediction> }>();
  let running = 0;
  const onIdle: (() => void)[] = [];

  async function predict(caller: Caller, request: PredictRequest): Promise<Prediction> {
    assertNoTransaction('predict');
    running++;
    try {
      const call = await parseFor(caller, request);
      const prediction = await (call.keyed ? stoppable(call, call.keyed) : bill(call));
      // What was billed just now was let in before that.
      if (prediction.replayed) admitAnswer(caller, prediction.outputs);
      return prediction;
    } finally {
      if (--running === 0) for (const resolve of onIdle.splice(0)) resolve();
    }
  }

  function admitAnswer(caller: Caller, outputs: readonly Tensor[]): void {
    const leave = answers.admit(caller.principal.tenantId, outputs, caller.written);
    if (leave !== null) caller.onGone(leave);
  }

  /** Step 1; a fault of a tensor's form also says what the model wants of it, where the caller may call the model. */
  async function parseFor(caller: Caller, request: PredictRequest): Promise<Call> {
    try {
      return parse(caller, request);
    } catch (error) {
      const index = error instanceof MercatoError ? /^inputs\[(\d+)\]/.exec(error.data.field ?? '')?.[1] : undefined;
      if (!(error instanceof MercatoError) || index === undefined) throw error;
      const entitlement = await Promise.resolve(catalog.entitlement(caller.principal, request.model)).catch(() => null);
      const wanted = entitlement && wantedOf(entitlement.signature, request.inputs[Number(index)]?.name ?? '');
      if (!wanted) throw error;
      throw new MercatoError(error.code, `${error.message} The model wants ${wanted}.`, { ...error.data, expected: wanted });
    }
  }

  /** Step 1: the form of the call, against fixed bounds. */
  function parse(caller: Caller, { model, inputs, outputs, idempotencyKey: key, deadlineMs }: PredictRequest): Call {
    if (key !== null) checkIdempotencyKey(key);
    if (deadlineMs !== null && (deadlineMs < 1 || deadlineMs > LIMITS.deadlineMsMax)) {
      throw badInput('deadlineMs', `deadlineMs must be 1 to ${LIMITS.deadlineMsMax}.`, {
        given: String(deadlineMs),
        expected: `1 to ${LIMITS.deadlineMsMax}`,
      });
    }
    const tensors = parseInputs(inputs);
    const keyed = key === null ? null : { key, digest: digestOf(model, tensors, outputs) };
    return { caller, model, inputs: tensors, outputs, keyed, startedAt: performance.now(), deadlineMs };
  }

  async function stoppable(call: Call, keyed: { key: string; digest: Buffer }): Promise<Prediction> {
    const { principal, signal } = call.caller;
    const watched = cancellations.watch(principal.tenantId, keyed.key, signal);
    try {
      return await once({ ...call, caller: { ...call.caller, signal: watched.signal } }, keyed);
    } finally {
      watched.over();
    }
  }

  async function cancel({ tenantId }: Principal, key: string): Promise<Cancellation> {
    checkIdempotencyKey(key);
    const here = await cancellations.cancel(tenantId, key);
    const running = inFlight.get(`${tenantId}:${key}`);
    await running?.done.catch(() => {});
    if (await replays.lookUp(tenantId, key)) return 'ANSWERED';
    return here ? 'STOPPED' : 'TOLD';
  }

  /** Calls in flight with the same key wait for the first; a retry of an answered call is never refused. */
  async function once(call: Call, keyed: { key: string; digest: Buffer }): Promise<Prediction> {
    const { tenantId } = call.caller.principal;
    const name = `${tenantId}:${keyed.key}`;
    for (let first = inFlight.get(name); first; first = inFlight.get(name)) {
      const waited = first.done.catch(() => null);
      const prediction = await inTime(waited, remainingOf(call, call.deadlineMs ?? LIMITS.deadlineMsMax), call.caller.signal);
      if (prediction === null) continue;
      if (!first.digest.equals(keyed.digest)) throw keyConflict();
      call.caller.onAnswered(access.holdAnswer(call.caller.principal));
      return { ...prediction, modelVersion: null, replayed: true };
    }
    const done = bill(call).catch(async (refusal: unknown) => {
      const answer = await storedAnswer(call, keyed, refusal);
      if (answer === null) throw refusal;
      return answer;
    });
    inFlight.set(name, { digest: keyed.digest, done });
    try {
      return await done;
    } finally {
      inFlight.delete(name);
    }
  }

  /**
   * What the key's first call was answered; null where it was not billed. Where that cannot be looked up, a refusal that would have the caller give up may
   * not be the answer: the key may have been billed.
   */
  async function storedAnswer(call: Call, { key, digest }: { key: string; digest: Buffer }, refusal: unknown): Promise<Prediction | null> {
    const { principal } = call.caller;
    call.caller.onAnswered(access.holdAnswer(principal));
    try {
      const stored = await replays.lookUp(principal.tenantId, key);
      return stored && replayed(stored, digest);
    } catch (error) {
      if (error instanceof MercatoError) throw error;
      if (!(refusal instanceof MercatoError) || ERRORS[refusal.code].retryable) return null;
      log.warn({ err: error }, 'a key could not be looked up');
      throw new MercatoError('OVERLOADED', 'Whether the key was answered before could not be looked up; try again with it.', {
        retryAfterMs: 1000,
      });
    }
  }

  /** Step 4. The wait for a lease ends with the caller's patience; units that come later go back. */
  async function admit(caller: Caller, entitlement: Entitlement, rows: number, remainingMs: number): Promise<Admission> {
    const { memberId, apiKeyId } = caller.principal;
    const key = { ...entitlement, memberId, apiKeyId };
    try {
      const admitted = leases.admit(key, rows, remainingMs);
      const admission =
        admitted instanceof Promise ? await inTime(admitted, remainingMs, caller.signal, (late) => late.giveBack()) : admitted;
      caller.onAllowances(admission.allowances());
      return admission;
    } catch (refusal) {
      caller.onAllowances(leases.allowances(key));
      throw refusal;
    }
  }

  /** Steps 2 to 7. */
  async function bill(call: Call): Promise<Prediction> {
    const { principal } = call.caller;
    const entitlement = await catalog.entitlement(principal, call.model);
    const { joinable, maxBatchRows } = entitlement.runnable;
    const rows = checkAgainst(entitlement.signature, call.inputs, call.outputs, joinable ? undefined : maxBatchRows);
    const probe = entitlement.suspended.length > 0 ? await pass(call, entitlement) : null;
    try {
      const prediction = await run(call, entitlement, rows);
      await probe?.answered().catch((error: unknown) => log.error({ err: error }, 'a suspension was not ended'));
      return prediction;
    } catch (error) {
      if (error instanceof ModelKilled) await strike(entitlement, error);
      else await probe?.untold().catch((cause: unknown) => log.warn({ err: cause }, 'a probe could not be given up'));
      throw error;
    }
  }

  /** The rest of step 3, for a version that is suspended. Its callers are told when to ask again; who does not wait so long waits for each further refusal. */
  async function pass(call: Call, entitlement: Entitlement) {
    try {
      return await catalog.suspensions.pass(entitlement);
    } catch (refusal) {
      const { principal, signal } = call.caller;
      await suspendedPace.hold(principal.tenantId, remainingOf(call, call.deadlineMs ?? entitlement.deadlineMs), signal);
      throw refusal;
    }
  }

  /** That it could not be counted must not change what its caller is told. */
  async function strike(entitlement: Entitlement, killed: ModelKilled): Promise<void> {
    await catalog.suspensions.strike(entitlement, killed).catch((error: unknown) => log.error({ err: error }, 'a strike was not counted'));
  }

  /** Steps 4 to 7. */
  async function run(call: Call, entitlement: Entitlement, rows: number): Promise<Prediction> {
    const { principal, signal } = call.caller;
    const deadlineMs = call.deadlineMs ?? entitlement.deadlineMs;
    const remaining = () => remainingOf(call, deadlineMs);
    const admission = await admit(call.caller, entitlement, rows, remaining());
    let result: RunResult;
    let release: () => void;
    let ran = false;
    try {
      if (remaining() <= 0) throw new MercatoError('DEADLINE_EXCEEDED');
      result = await inference.run({
        version: entitlement.runnable,
        tenantKey: principal.tenantId,
        priority: entitlement.terms?.priority ?? 0,
        inputs: call.inputs,
        outputs: call.outputs,
        deadlineMs: remaining(),
        signal,
        onKilled: (killed) => void strike(entitlement, killed),
      });
      ran = true;
      admitAnswer(call.caller, result.outputs);
      release = access.holdAnswer(principal);
    } catch (error) {
      admission.giveBack(ran || (error instanceof MercatoError && SPENDING.has(error.code)));
      throw error;
    }
    call.caller.onAnswered(release);
    const answer: Answer = { id: newId(), modelVersionId: entitlement.version.id, outputs: result.outputs, timing: timingOf(result) };
    const metered = meteredOf(answer.id, principal, entitlement, call, result, rows);
    const settled = await settle(admission, metered, call, answer);
    if (settled.stored !== null) return replayed(settled.stored, call.keyed?.digest ?? Buffer.alloc(0));
    const amount = { nanos: settled.amountNanos, currency: billing.currency };
    return { ...answer, modelVersion: entitlement.version, usage: { units: rows, amount }, replayed: false };
  }

  /** Step 6. What was put into the store for a retry goes again unless this call is the one that was billed, or may have been. */
  async function settle(admission: Admission, metered: Metered, call: Call, answer: Answer): Promise<Settled> {
    const place =
      call.keyed &&
      (await replays.prepare(answer).catch((error: unknown) => {
        admission.giveBack();
        throw error;
      }));
    const keyed = call.keyed && place && { ...call.keyed, ...place, tenantId: metered.consumerTenantId };
    let billed = false;
    try {
      const settled = await settlement.settle({ admission, metered, keyed });
      billed = settled.stored === null;
      return settled;
    } catch (error) {
      billed = error instanceof MercatoError && error.code === 'OUTCOME_UNKNOWN';
      throw error;
    } finally {
      if (place?.storeKey && !billed)
        await replays.discard(place.storeKey).catch((error: unknown) => log.warn({ err: error }, 'an answer stays in the store'));
    }
  }

  function replayed(stored: Stored, digest: Buffer): Prediction {
    const { answer, units, amountNanos } = replayOf(stored, digest, billing.currency);
    return { ...answer, modelVersion: null, usage: { units, amount: { nanos: amountNanos, currency: billing.currency } }, replayed: true };
  }

  const timer = setInterval(() => {
    replays.expire().catch((error: unknown) => log.warn({ err: error }, 'expired answers could not be deleted'));
  }, EXPIRE_MS);
  timer.unref();

  async function idle(): Promise<void> {
    if (running > 0) await new Promise<void>((resolve) => onIdle.push(resolve));
    await settlement.idle();
  }

  return {
    predict,
    cancel,
    idle,
    async [Symbol.asyncDispose]() {
      clearInterval(timer);
      await idle();
      await leases[Symbol.asyncDispose]();
    },
  };
}

const remainingOf = (call: Call, deadlineMs: number) => deadlineMs - (performance.now() - call.startedAt);

function timingOf({ queueMs, computeMs, batchRows, device }: RunResult): Prediction['timing'] {
  // Microseconds are what is known; more digits would be noise.
  const rounded = (ms: number) => Math.round(ms * 1000) / 1000;
  return { queueMs: rounded(queueMs), computeMs: rounded(computeMs), batchRows, device };
}

function meteredOf(id: string, principal: Principal, entitlement: Entitlement, call: Call, result: RunResult, rows: number): Metered {
  return {
    id,
    consumerTenantId: entitlement.consumerTenantId,
    publisherTenantId: entitlement.publisherTenantId,
    listingId: entitlement.listingId,
    modelId: entitlement.modelId,
    modelVersionId: entitlement.version.id,
    subscriptionId: entitlement.subscriptionId,
    planVersionId: entitlement.terms?.planVersionId ?? null,
    apiKeyId: principal.apiKeyId,
    userId: principal.userId,
    units: rows,
    rows: result.rows,
    runs: result.runs,
    computeMicros: result.computeMicros,
    bytesIn: bytesOf(call.inputs),
    bytesOut: bytesOf(result.outputs),
  };
}
