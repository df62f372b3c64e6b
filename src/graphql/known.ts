import { type DocumentNode, execute, GraphQLError, type GraphQLSchema, Kind } from 'graphql';
import { ERRORS } from '../base/errors.ts';
import { type Call, reportInternal } from './call.ts';
import { compilePredict, type Execute } from './compiled.ts';
import { hidesCause, type PublicError, publicError, retryOf } from './errors.ts';

type Known = { document: DocumentNode; operation: 'query' | 'mutation'; uses: number; execute: Execute };
/** A request that can be executed without being read again. */
export type KnownRequest = Pick<Known, 'operation' | 'execute'> & { variables: Record<string, unknown> | null };

/** Anyone may fill it: a document takes up to 280 KB, parsed and compiled, and all together then 140 MB. */
const KNOWN_MAX = 500;
const SOURCE_LENGTH_MAX = 2_000;
/** Compiling takes up to 4 ms at that length, so that a document has to come back for it. */
const COMPILED_AT_USE = 16;

/**
 * Documents of one operation that Apollo Server has parsed and validated. Asked again, they are executed at once: Apollo's own
 * way through a request costs about 80 µs of a prediction's 400 (2 cores, November 2026), and everything that it would look at has been
 * looked at. Those asked for least recently are forgotten first.
 */
export class KnownDocuments {
  private readonly documents = new Map<string, Known>();
  private readonly schema: GraphQLSchema;

  constructor(schema: GraphQLSchema) {
    this.schema = schema;
  }

  /** Called when Apollo has found the operation of a valid document. */
  remember(source: string, document: DocumentNode): void {
    const operations = document.definitions.filter((definition) => definition.kind === Kind.OPERATION_DEFINITION);
    const [only] = operations;
    if (!only || operations.length > 1 || only.operation === 'subscription' || source.length > SOURCE_LENGTH_MAX) return;
    const { schema } = this;
    this.use(source, {
      document,
      operation: only.operation,
      uses: 0,
      execute: (variableValues, contextValue) => execute({ schema, document, variableValues, contextValue }),
    });
    for (const oldest of this.documents.keys()) {
      if (this.documents.size <= KNOWN_MAX) return;
      this.documents.delete(oldest);
    }
  }

  /** Whether the document was valid before, and so within all bounds. */
  has(source: string): boolean {
    return this.documents.has(source);
  }

  /** Null where Apollo has to look: an unknown document, or a request with more to it than query and variables. */
  find(body: unknown): KnownRequest | null {
    if (typeof body !== 'object' || body === null || Array.isArray(body)) return null;
    const { query, variables = null, ...more } = body as Record<string, unknown>;
    if (typeof query !== 'string' || typeof variables !== 'object' || Array.isArray(variables)) return null;
    for (const name in more) if (more[name] !== null && more[name] !== undefined) return null;
    const known = this.documents.get(query);
    if (known === undefined) return null;
    this.use(query, known);
    return { operation: known.operation, execute: known.execute, variables: variables as Record<string, unknown> | null };
  }

  /** A map keeps the order in which keys were set: the last is the one used last. */
  private use(source: string, known: Known): void {
    known.uses++;
    if (known.uses === COMPILED_AT_USE) known.execute = compilePredict(this.schema, known.document) ?? known.execute;
    this.documents.delete(source);
    this.documents.set(source, known);
  }
}

/** Executes a known document and returns the body; the call gets the status. */
export async function executeKnown(request: KnownRequest, contextValue: unknown, call: Call): Promise<string> {
  call.operation = request.operation;
  const result = await request.execute(request.variables, contextValue);
  if (!result.errors) {
    call.status = 200;
    return `${JSON.stringify({ data: result.data })}\n`;
  }
  const errors = result.errors.map((error) => shown(error, result.data === undefined, call));
  const [first] = errors;
  call.retryAfterMs = retryOf(first);
  call.status = first && !result.data ? ERRORS[first.extensions.code].http : 200;
  return `${JSON.stringify({ errors, data: result.data })}\n`;
}

/** What fails before execution begins are the variables, whatever a scalar threw. */
function shown(error: GraphQLError, beforeExecution: boolean, call: Call): PublicError {
  const cause = beforeExecution ? ofVariables(error) : error;
  const visible = publicError(cause);
  if (hidesCause(visible, error)) reportInternal(call, visible, error);
  return visible;
}

function ofVariables({ message, nodes, originalError }: GraphQLError): GraphQLError {
  return new GraphQLError(message, { nodes: nodes ?? null, originalError: originalError ?? null, extensions: { code: 'BAD_USER_INPUT' } });
}
