import type { ApolloServerPlugin, GraphQLRequestListener } from '@apollo/server';
import {
  ApolloServerPluginCacheControlDisabled,
  ApolloServerPluginInlineTraceDisabled,
  ApolloServerPluginLandingPageDisabled,
  ApolloServerPluginSchemaReportingDisabled,
  ApolloServerPluginUsageReportingDisabled,
} from '@apollo/server/plugin/disabled';
import { ERRORS } from '../base/errors.ts';
import { type Call, reportInternal } from './call.ts';
import { hidesCause, type PublicError, retryOf } from './errors.ts';
import type { KnownDocuments } from './known.ts';

/** Apollo's own plugins; some would report to a service outside where the environment holds its key. */
export const switchedOff = [
  ApolloServerPluginCacheControlDisabled(),
  ApolloServerPluginInlineTraceDisabled(),
  ApolloServerPluginLandingPageDisabled(),
  ApolloServerPluginSchemaReportingDisabled(),
  ApolloServerPluginUsageReportingDisabled(),
];

type HasCall = { call: Call };

/**
 * Tells the call its kind of operation before execution, and the status of its answer after it; hands valid documents to `known`. One
 * listener for all requests: it keeps no state, the call does.
 */
export function answerPlugin(known: KnownDocuments): ApolloServerPlugin<HasCall> {
  const listener: GraphQLRequestListener<HasCall> = {
    async didResolveOperation({ contextValue, operation, source, document }) {
      if (operation) contextValue.call.operation = operation.operation;
      known.remember(source, document);
    },
    async willSendResponse(context) {
      if (context.response.body.kind !== 'single') return;
      const { data, errors } = context.response.body.singleResult;
      const shown = errors as PublicError[] | undefined;
      shown?.forEach((error, i) => {
        const cause = context.errors?.[i];
        if (hidesCause(error, cause)) reportInternal(context.contextValue.call, error, cause);
      });
      context.contextValue.call.retryAfterMs = retryOf(shown?.[0]);
      const isRequest = context.errors?.[0]?.extensions.code !== 'BAD_REQUEST';
      const first = shown?.[0];
      if (isRequest) context.contextValue.call.status = first && !data ? ERRORS[first.extensions.code].http : 200;
    },
  };
  return { requestDidStart: async () => listener };
}
