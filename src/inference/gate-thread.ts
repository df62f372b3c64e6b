import { type MessagePort, workerData } from 'node:worker_threads';
import { tellDone } from './apart.ts';
import type { Gate } from './check-runner.ts';
import { lowerOwnPriority } from './confinement.ts';
import { type Failure, failureOf } from './failures.ts';
import { connectLender } from './fleet-ipc.ts';
import { type Inspection, inspectModel } from './inspect.ts';
import type { Contents } from './onnx/onnx.ts';
import { type Verified, verifySamples } from './verify.ts';

/** What `createGate` asks for. `port`: to what lends runners. */
export type GateOrder = { model: Uint8Array; gate: Gate; port: MessagePort } & (
  | { what: 'inspect'; contents: Contents }
  | { what: 'verify' }
);
export type ToldVerified = Omit<Verified, 'fault'> & { fault: Failure | null };

async function check(order: GateOrder): Promise<Inspection | ToldVerified> {
  const { model, gate } = order;
  const lender = connectLender(order.port);
  if (order.what === 'inspect') return inspectModel(model, order.contents, gate, lender);
  const { fault, ...verified } = await verifySamples(model, gate, lender);
  return { ...verified, fault: fault && failureOf(fault) };
}

lowerOwnPriority();
await tellDone(() => check(workerData as GateOrder));
