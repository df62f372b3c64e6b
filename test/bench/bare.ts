/** The baseline of P1 and P6: its resolver returns a constant. */
import { type PredictPayload, serve } from './apollo.ts';

const answer: PredictPayload = { prediction: { outputs: [{ name: 'label', data: ['7'] }], usage: { units: 1 } } };
await serve(() => answer);
