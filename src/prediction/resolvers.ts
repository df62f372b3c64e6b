import { authorize } from '../access/access.ts';
import { MercatoError } from '../base/errors.ts';
import { globalId } from '../base/ids.ts';
import type { Resolvers } from '../generated/schema.ts';
import { toBase64, toJson, writtenBy } from './prediction.ts';

export const resolvers = {
  Mutation: {
    predict: async (_, { input }, ctx, info) => {
      const { signal, onAnswered, onGone, onAllowances } = ctx;
      const principal = authorize(ctx.principal, 'model:predict');
      const prediction = await ctx.predictions.predict(
        { principal, signal, onAnswered, onGone, onAllowances, written: writtenBy(info) },
        {
          model: input.model,
          inputs: input.inputs,
          outputs: input.outputs ?? null,
          idempotencyKey: input.idempotencyKey ?? null,
          deadlineMs: input.deadlineMs ?? null,
        },
      );
      return { prediction };
    },
    cancelPrediction: async (_, { input }, ctx) => {
      const principal = authorize(ctx.principal, 'model:predict');
      return { state: await ctx.predictions.cancel(principal, input.idempotencyKey) };
    },
  },
  Prediction: {
    id: (prediction) => globalId('Prediction', prediction.id),
    modelVersion: async (prediction, _, ctx) => {
      const tenantId = ctx.principal?.tenantId ?? null;
      const version =
        prediction.modelVersion ?? (await ctx.read((tx) => ctx.catalog.findModelVersion(tx, tenantId, prediction.modelVersionId)));
      if (!version) throw new MercatoError('NOT_FOUND', 'The version of this answer is no longer visible to you.');
      return version;
    },
  },
  Tensor: {
    shape: (tensor) => [...tensor.shape],
    data: (tensor, { encoding }) => (encoding === 'BASE64' ? toBase64(tensor) : toJson(tensor)),
  },
} satisfies Resolvers;
