/** One of P7's processes: leases and settlement as a server process has them, without HTTP. Takes orders from its parent; arguments: database, directory. */
import { openPostgres } from '../../src/base/database-postgres.ts';
import { newId } from '../../src/base/ids.ts';
import { createLog } from '../../src/base/log.ts';
import { createBilling } from '../../src/billing/billing.ts';
import { createDirectoryStore } from '../../src/catalog/catalog.ts';
import { createLeaseStore } from '../../src/prediction/lease-store.ts';
import { createLeases } from '../../src/prediction/leases.ts';
import { createReplays } from '../../src/prediction/replays.ts';
import { createSettlement } from '../../src/prediction/settlement.ts';
import { createSettlementStore } from '../../src/prediction/settlement-store.ts';
import { COMMISSION_BPS, CURRENCY, finished } from '../support/core.ts';
import { POOL_SIZE } from './hot-market.ts';
import { type HotOrder, takeOrders, underLoad } from './hot-orders.ts';

const DEADLINE_MS = 10_000;
const [url = '', directory = ''] = process.argv.slice(2);
const log = createLog('warn');

await using stack = new AsyncDisposableStack();
const db = stack.use(await openPostgres({ url, serverUrl: null, poolSize: POOL_SIZE }, log));
const billing = createBilling({ db, currency: CURRENCY, commissionBps: COMMISSION_BPS });
const invalidations = { on: () => {}, isFresh: () => true };
const leases = stack.use(await createLeases({ store: createLeaseStore({ db, billing, processId: newId() }), invalidations, log }));
const replays = createReplays({ db, store: await createDirectoryStore(directory) });
const books = createSettlementStore({ db, replays, billing, replayHours: 24 });
let running = 0;
let groupMs: number[] = [];
const settlement = createSettlement({
  store: {
    ...books,
    async settle(group) {
      const startedMs = performance.now();
      try {
        return await books.settle(group);
      } finally {
        groupMs.push(performance.now() - startedMs);
      }
    },
  },
  inFlight: () => running,
  log,
});

async function call({ right }: HotOrder): Promise<void> {
  running++;
  try {
    const admission = await leases.admit(right, 1, DEADLINE_MS);
    await settlement.settle(finished(right, admission, { apiKeyId: right.apiKeyId }));
  } finally {
    running--;
  }
}

await takeOrders(async (order) => {
  groupMs = [];
  const done = await underLoad(order, () => call(order));
  return { ...done, groupMs };
});
