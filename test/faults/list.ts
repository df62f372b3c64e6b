import { CALL_FAULTS } from './call-faults.ts';
import { DATABASE_FAULTS } from './database-faults.ts';
import { LIMIT_FAULTS } from './limit-faults.ts';
import { MONEY_FAULTS } from './money-faults.ts';
import { PROCESS_FAULTS } from './process-faults.ts';
import { REVOCATIONS } from './revocation.ts';
import type { Fault } from './round.ts';

export const FAULTS: readonly Fault[] = [
  ...PROCESS_FAULTS,
  ...DATABASE_FAULTS,
  ...CALL_FAULTS,
  ...LIMIT_FAULTS,
  ...MONEY_FAULTS,
  ...REVOCATIONS,
];
