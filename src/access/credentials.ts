import { MercatoError } from '../base/errors.ts';
import { KEY_PREFIX } from './key-format.ts';

/** The headers `authorization` and `x-api-key` of a request. */
export type CredentialHeaders = { authorization?: string | undefined; apiKey?: string | undefined };

type Credential = { kind: 'api-key' | 'access-token'; text: string };

const BEARER = /^Bearer +([^\s]+)$/i;

/**
 * What a request brought to prove who it is; null: nothing. `Authorization: Bearer` takes an access token or an API key, `x-api-key` an API
 * key; both at once must agree. @throws UNAUTHENTICATED
 */
export function readCredential({ authorization, apiKey }: CredentialHeaders): Credential | null {
  if (authorization === undefined && apiKey === undefined) return null;
  const bearer = authorization === undefined ? undefined : BEARER.exec(authorization)?.[1];
  if (authorization !== undefined && bearer === undefined) throw new MercatoError('UNAUTHENTICATED');
  if (apiKey !== undefined && (!apiKey.startsWith(KEY_PREFIX) || (bearer !== undefined && bearer !== apiKey))) {
    throw new MercatoError('UNAUTHENTICATED');
  }
  const text = bearer ?? apiKey ?? '';
  return { kind: text.startsWith(KEY_PREFIX) ? 'api-key' : 'access-token', text };
}
