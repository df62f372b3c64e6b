import type { Guard } from '../guard.ts';
import { accessChecks } from './checks-access.ts';
import { billingChecks } from './checks-billing.ts';
import { callChecks } from './checks-calls.ts';
import { predictionChecks } from './checks-prediction.ts';
import { tenantChecks } from './checks-tenants.ts';
import { usageChecks } from './checks-usage.ts';

export const checks: Guard[] = [...usageChecks, ...billingChecks, ...accessChecks, ...predictionChecks, ...callChecks, ...tenantChecks];
