import {
  type ASTVisitor,
  type DocumentNode,
  type FieldNode,
  GraphQLError,
  getOperationAST,
  Kind,
  type OperationDefinitionNode,
  parse,
  type SelectionSetNode,
  type ValidationContext,
} from 'graphql';
import { GRAPHQL_LIMITS } from './limits.ts';

/** Mutations whose input is the credential. A client whose access token has run out asks for them, and may send it along. */
const CREDENTIAL_FIELDS = new Set(['signUp', 'signIn', 'refreshSession', 'signOut']);

/**
 * A prediction is billed for good, and a field beside it that fails would make the whole answer null: it stands alone in its operation, said before anything
 * runs. So no mutation waits for the release of an answer that waits for that mutation, as `revokeApiKey` would.
 */
export function predictAlone(context: ValidationContext): ASTVisitor {
  return {
    OperationDefinition(operation) {
      if (operation.operation !== 'mutation') return;
      const fields = rootFields(context.getDocument(), operation);
      const predict = fields.find(({ name }) => name.value === 'predict');
      if (predict === undefined || fields.length === 1) return;
      const message =
        'predict must be the only field of its operation: it is billed, and another field that fails would take its answer along.';
      context.reportError(new GraphQLError(message, { nodes: predict }));
    },
  };
}

/** Whether a request that came with credentials that do not hold asks for new ones, and for nothing else. What does not parse does not. */
export function asksForCredentials(body: unknown): boolean {
  if (typeof body !== 'object' || body === null) return false;
  const { query, operationName } = body as Record<string, unknown>;
  if (typeof query !== 'string') return false;
  try {
    const document = parse(query, { noLocation: true, maxTokens: GRAPHQL_LIMITS.tokens });
    const operation = getOperationAST(document, typeof operationName === 'string' ? operationName : null);
    const fields = operation?.operation === 'mutation' ? rootFields(document, operation) : [];
    return fields.length > 0 && fields.every(({ name }) => CREDENTIAL_FIELDS.has(name.value));
  } catch {
    return false;
  }
}

/** The fields at an operation's top, those of fragments included; a fragment once. */
function rootFields(document: DocumentNode, { selectionSet }: OperationDefinitionNode): FieldNode[] {
  const seen = new Set<string>();
  const fieldsOf = (set: SelectionSetNode): FieldNode[] =>
    set.selections.flatMap((selection) => {
      if (selection.kind === Kind.FIELD) return [selection];
      if (selection.kind === Kind.INLINE_FRAGMENT) return fieldsOf(selection.selectionSet);
      if (seen.has(selection.name.value)) return [];
      seen.add(selection.name.value);
      const fragment = document.definitions.find((one) => one.kind === Kind.FRAGMENT_DEFINITION && one.name.value === selection.name.value);
      return fragment?.kind === Kind.FRAGMENT_DEFINITION ? fieldsOf(fragment.selectionSet) : [];
    });
  return fieldsOf(selectionSet);
}
