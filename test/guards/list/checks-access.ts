import { type Guard, guardsOf } from '../guard.ts';

const ACCESS = 'database/access';
const KEYS = 'database/access-keys';
const TOKENS = 'unit/access-tokens';
const HEARTS = 'database/invalidation';
const ALONE = 'database/without-walls';

export const accessChecks: Guard[] = [
  ...guardsOf('code', 'src/access/accounts.ts', ACCESS, [
    ['a taken e-mail is refused', 'if (made === null) throw taken();', 'if (made === null) return made as never;'],
    [
      'a retry of a sign-up needs the password',
      'if (!known || !(await passwords.matches(known.passwordHash, input.password))) throw taken();',
      'if (!known) throw taken();',
    ],
    ['a retry of a sign-up needs its key', 'once(tx, first, () => Promise.reject(taken()))', 'once(tx, first, async () => {})'],
    ['a password has to match', 'if (!known || !matches) throw new MercatoError', 'if (!known) throw new MercatoError'],
    [
      'a sign-in is to a tenant of the user',
      "if (!seat) throw new MercatoError('UNAUTHENTICATED'",
      "if (false) throw new MercatoError('UNAUTHENTICATED'",
    ],
    ['a user does not become the operator', 'if (!present?.isOperator) throw taken();', 'if (!present) throw taken();'],
    ['a sign-up makes no operator', '{ ...account, isOperator: false }', '{ ...account, isOperator: true }'],
    [
      'an API key makes no tenant',
      "if (userId === null) throw new MercatoError('FORBIDDEN', 'Only a signed-in user can make a tenant.');",
      'if (userId === null) return null as never;',
    ],
    [
      'an e-mail is in form',
      "if (email === null)\n      throw badInput('email'",
      "if (email === null && false)\n      throw badInput('email'",
    ],
    ['a password is in form', 'const password = checkPassword(input.password);', 'const { password } = input;'],
    ['a tenant name is in form', "checkTenantName('tenantName', input.tenantName);", ''],
    ['an e-mail is one whatever its case', 'text.trim().toLowerCase()', 'text.trim()'],
  ]),
  ...guardsOf('code', 'src/access/api-keys.ts', KEYS, [
    [
      "a key that is revoked is the tenant's",
      'where k.id = ${id}::uuid and k.tenant_id = ${tenantId}::uuid\n          returning',
      'where k.id = ${id}::uuid\n          returning',
      ALONE,
    ],
    ['a key that is not there is not revoked', "if (!apiKey) throw new MercatoError('NOT_FOUND');", ''],
    ['every process knows of a revocation', "seq: await invalidations.publish(tx, 'api_key', [id])", 'seq: 0n'],
    ['a revocation waits for every process', 'await invalidations.confirmed(seq);', ''],
    ["a retry's key is of the same member", ' and k.created_by_user_id is not distinct from ${memberId}::uuid', ''],
    [
      'a retry of another member is told',
      "if (apiKey === null) {\n          throw new MercatoError('IDEMPOTENCY_CONFLICT'",
      "if (apiKey === null) {\n          throw new MercatoError('NOT_FOUND'",
    ],
    ["keys are the tenant's", 'where k.tenant_id = ${tenantId}::uuid and (${page', 'where (${page', ALONE],
    [
      "a key is the tenant's",
      'from api_key k where k.id = ${id}::uuid and k.tenant_id = ${tenantId}::uuid`',
      'from api_key k where k.id = ${id}::uuid`',
      ALONE,
    ],
    [
      'a key has known scopes',
      "if (unknown !== undefined || scopes.length === 0) {\n    const given = unknown?.slice(0, 60) ?? 'none';\n    throw badInput",
      "if (false) {\n    const given = '';\n    throw badInput",
    ],
    [
      'a key has scopes that its maker has',
      "if (lacking) throw new MercatoError('FORBIDDEN'",
      "if (false) throw new MercatoError('FORBIDDEN'",
    ],
    [
      "a tenant's keys are counted",
      'where tenant_id = ${tenantId}::uuid and revoked_at is null and (expires_at is null or expires_at > mercato_now())`;\n  if',
      'where revoked_at is null and (expires_at is null or expires_at > mercato_now())`;\n  if',
      ALONE,
    ],
    [
      'a revoked key leaves its place',
      '::uuid and revoked_at is null and (expires_at is null or expires_at > mercato_now())`;\n  if',
      '::uuid and (expires_at is null or expires_at > mercato_now())`;\n  if',
    ],
    ['an expired key leaves its place', ' and (expires_at is null or expires_at > mercato_now())`;\n  if', '`;\n  if', ALONE],
    ['a key expires in the future', 'if (found?.expired) {\n    throw badInput', 'if (false) {\n    throw badInput'],
    [
      "a tenant's keys are bounded",
      '>= BigInt(LIMITS.apiKeysPerTenant)) {\n    throw new MercatoError',
      '< 0n) {\n    throw new MercatoError',
    ],
    ['a key is kept as a hash', '${hashSecret(key.secret)}::bytea', '${Buffer.from(key.secret.slice(0, 32))}::bytea'],
    ['a secret is shown once', 'secret: replayed ? null : secret', 'secret'],
    ["the order of scopes is no part of a key's input", 'scopes: scopes.toSorted(), expiresAt }', 'scopes, expiresAt }'],
  ]),
  ...guardsOf('code', 'src/access/key-format.ts', 'unit/access-keys', [
    [
      'a key has a checksum',
      'PATTERN.test(text) && checksum(text.slice(0, -CHECKSUM_LENGTH)) === text.slice(-CHECKSUM_LENGTH)',
      'PATTERN.test(text)',
    ],
    ['a key has a form', 'PATTERN.test(text) && checksum', 'checksum'],
  ]),
  ...guardsOf('code', 'src/access/credentials.ts', 'unit/access-keys', [
    [
      'a header that is no bearer is refused',
      "if (authorization !== undefined && bearer === undefined) throw new MercatoError('UNAUTHENTICATED');",
      '',
    ],
    [
      'two credentials agree',
      "|| (bearer !== undefined && bearer !== apiKey))) {\n    throw new MercatoError('UNAUTHENTICATED');",
      ")) {\n    throw new MercatoError('UNAUTHENTICATED');",
    ],
    ['x-api-key is an API key', '(!apiKey.startsWith(KEY_PREFIX) || (bearer', '((bearer'],
  ]),
  ...guardsOf('code', 'src/access/key-memory.ts', KEYS, [
    ['memory is trusted while it is fresh', 'if (!invalidations.isFresh()) return lookUp(secret);', ''],
    ['a remembered key ends with its expiry', '|| clock.monotonicMs() >= entry.deadlineMs) return', ') return'],
    ['what is no key is not looked up', "if (!isWellFormedKey(secret)) throw new MercatoError('UNAUTHENTICATED');", '', 'unit/forms'],
    [
      'look-ups of keys are bounded',
      "if (turns.waiting >= LOOKUPS_WAITING_MAX) throw new MercatoError('OVERLOADED'",
      "if (false) throw new MercatoError('OVERLOADED'",
    ],
    [
      'a database that is gone is no refusal',
      "throw new MercatoError('OVERLOADED', undefined, { retryAfterMs: 1_000 }, { cause: error });",
      "throw new MercatoError('UNAUTHENTICATED');",
    ],
    [
      'a key that is revoked while it is looked up is refused',
      "if (!row || revoked.has(row.id)) throw new MercatoError('UNAUTHENTICATED');",
      "if (!row) throw new MercatoError('UNAUTHENTICATED');",
      ALONE,
    ],
    ['a revoked key is forgotten', 'entries.deleteWhere(({ principal }) => principal.apiKeyId === id);', ''],
    [
      'a revocation waits for answers on their way',
      'return hold && new Promise<void>((resolve) => hold.whenReleased.push(resolve));',
      'return undefined;',
    ],
    ['no answer of a revoked key begins', "if (revoked.has(id)) throw new MercatoError('UNAUTHENTICATED', 'The API key is revoked.');", ''],
    ['an answer is released once', 'if (!held) return;\n', ''],
    [
      'a revoked key is not found',
      'where hash = ${hash}::bytea and revoked_at is null and (expires',
      'where hash = ${hash}::bytea and (expires',
      ALONE,
    ],
    ['an expired key is not found', ' and (expires_at is null or expires_at > mercato_now())`', '`', ALONE],
  ]),
  ...guardsOf('code', 'src/access/passwords.ts', ACCESS, [
    ['a password is bounded', 'if (isAcceptable(password)) return password;\n  throw badInput', 'return password;\n  throw badInput'],
    [
      'a flood of passwords is refused',
      "else if (waiting.length >= WAITING_MAX) throw new MercatoError('OVERLOADED', undefined, { retryAfterMs: 2_000 });",
      '',
      'unit/access-keys',
    ],
  ]),
  ...guardsOf('code', 'src/access/principal.ts', 'unit/access-keys', [
    [
      'a scope needs credentials',
      "if (principal === null) throw new MercatoError('UNAUTHENTICATED');\n  if (scope",
      'if (principal === null) return principal as never;\n  if (scope',
    ],
    [
      'a scope is needed',
      'if (scope !== null && !principal.scopes.has(scope)) throw new MercatoError',
      'if (false) throw new MercatoError',
    ],
    [
      'the operator needs credentials',
      "if (principal === null) throw new MercatoError('UNAUTHENTICATED');\n  if (!principal",
      'if (principal === null) return principal as never;\n  if (!principal',
    ],
    ['the operator is needed', 'if (!principal.isOperator) throw new MercatoError', 'if (false) throw new MercatoError'],
    ['a developer writes no billing', "!['tenant:write', 'billing:read', 'billing:write'].includes(scope)", 'true'],
    ['a viewer only reads', "scope.endsWith(':read')", 'true'],
  ]),
  ...guardsOf('code', 'src/access/resolvers.ts', 'unit/scopes', [
    [
      'viewer asks for credentials',
      'viewer: (_, __, { principal }) => authorize(principal, null),',
      'viewer: (_, __, { principal }) => principal as never,',
    ],
    ['apiKeys asks for its scope', "authorize(principal, 'key:read')", 'authorize(principal, null)'],
    [
      'createTenant asks for credentials',
      'async createTenant(_, { input }, { principal, access }) {\n      const caller = authorize(principal, null);',
      'async createTenant(_, { input }, { principal, access }) {\n      const caller = principal as never;',
    ],
    [
      'switchTenant asks for credentials',
      'switchTenant(_, { input }, { principal, access }) {\n      const caller = authorize(principal, null);',
      'switchTenant(_, { input }, { principal, access }) {\n      const caller = principal as never;',
    ],
    [
      'createApiKey asks for its scope',
      "createApiKey(_, { input }, { principal, access }) {\n      const caller = authorize(principal, 'key:write');",
      'createApiKey(_, { input }, { principal, access }) {\n      const caller = authorize(principal, null);',
    ],
    [
      'revokeApiKey asks for its scope',
      "async revokeApiKey(_, { input }, { principal, access }) {\n      const caller = authorize(principal, 'key:write');",
      'async revokeApiKey(_, { input }, { principal, access }) {\n      const caller = authorize(principal, null);',
    ],
    [
      'an object is named by an id of its type',
      "if (parsed?.type !== type) throw new MercatoError('NOT_FOUND');\n  return parsed.id;",
      "return parsed?.id ?? '';",
      'unit/forms',
    ],
  ]),
  ...guardsOf('code', 'src/access/sessions.ts', ACCESS, [
    ['a refresh token is in form', "if (!REFRESH_TOKEN.test(refreshToken)) throw new MercatoError('UNAUTHENTICATED');", '', 'unit/forms'],
    [
      'a used refresh token ends its session',
      '(await isRetry(tx, hash, key)) ? { tokens: null } : endSession(tx, hash);',
      '(await isRetry(tx, hash, key)) ? { tokens: null } : null;',
    ],
    ['only a retry under its key ends no session', '(await isRetry(tx, hash, key)) ?', 'key !== null ?'],
    ['a retry of an ended session is refused', 's.expires_at > mercato_now() and s.revoked_at is null\n', 's.expires_at > mercato_now()\n'],
    [
      'a retry is of the last token that was used',
      'and not exists (select from refresh_token n where n.session_id = s.id and n.used_at > t.used_at)`',
      '`',
    ],
    ["a refresh's key is in form", 'if (key !== null) checkIdempotencyKey(key);', ''],
    ['a refresh token is used once', ' and used_at is null`', '`'],
    ['an ended session is not refreshed', "if (answer === null) throw new MercatoError('UNAUTHENTICATED');", ''],
    [
      'an API key switches no tenant',
      "if (userId === null || sessionId === undefined) throw new MercatoError('FORBIDDEN'",
      "if (false) throw new MercatoError('FORBIDDEN'",
      'unit/forms',
    ],
    ['an ended session is not switched', "if (expiresAt === null) throw new MercatoError('UNAUTHENTICATED');", ''],
    ['a session is switched to a tenant of the user', "if (!target) throw new MercatoError('NOT_FOUND');", ''],
    ['a revoked session is over', 's.id = t.session_id and s.revoked_at is null and s.expires', 's.id = t.session_id and s.expires'],
    ['a session is over at its expiry', ' and s.expires_at > mercato_now()\n', '\n'],
    [
      'a session is of a member',
      'join member m on m.user_id = s.user_id and m.tenant_id = s.tenant_id',
      'left join member m on m.user_id = s.user_id and m.tenant_id = s.tenant_id',
    ],
    ["a session's member is the tenant's", 'm.user_id = s.user_id and m.tenant_id = s.tenant_id', 'm.user_id = s.user_id'],
    [
      "a session that is switched is the user's",
      'where id = ${sessionId}::uuid and user_id = ${userId}::uuid and',
      'where id = ${sessionId}::uuid and',
      ALONE,
    ],
    ['a session that is switched is not revoked', '${userId}::uuid and revoked_at is null and expires', '${userId}::uuid and expires'],
    ['a session that is switched has not expired', ' and expires_at > mercato_now()\n    for update', '\n    for update', ALONE],
  ]),
  ...guardsOf('code', 'src/access/tokens.ts', TOKENS, [
    ['a verified token ends', 'if (known && clock.wallMs() < known.expiresMs) return', 'if (known) return'],
    [
      'a token speaks for somebody',
      "if (!principal || claims.exp === undefined) throw new MercatoError('UNAUTHENTICATED');",
      'if (!principal || !claims) return null as never;',
    ],
    ['a token ends', '|| claims.exp === undefined) throw', ') throw'],
    ['a token is of this issuer', 'issuer: NAME, ', ''],
    ['a token is for this audience', 'audience: NAME, clockTimestamp', 'clockTimestamp'],
    ['a token is short', 'if (token.length > LENGTH_MAX) return null;', ''],
    [
      "a token's parts are strict base64url",
      "if (decoded.some((bytes, i) => bytes.length === 0 || bytes.toString('base64url') !== parts[i])) return null;",
      '',
    ],
    ["a token's header has three fields", ' || Object.keys(fields).length !== 3) return', ') return'],
    ["a token's header says JWT", "'typ' in fields && fields.typ === 'JWT'", "'typ' in fields"],
    [
      "a token's claims are ids, a role and a flag",
      "if (!isIdText(sub) || !isIdText(tid) || !isIdText(sid) || !isRole(role) || typeof op !== 'boolean') return null;",
      '',
    ],
  ]),
  ...guardsOf('code', 'src/access/jwt-keys.ts', ACCESS, [
    [
      'a signing key is a private one of P-256',
      "isRecord(jwk) && jwk.kty === 'EC' && jwk.crv === 'P-256' && typeof jwk.d === 'string'",
      'isRecord(jwk)',
      ALONE,
    ],
    ['there is a signing key, and no kid twice', 'if (!first || publicKeys.size !== keys.length) throw', 'if (!first) throw', ALONE],
    ['the first to make the keys wins', 'await link(draft, path);', 'await writeFile(path, await readFile(draft));'],
    ['only its owner reads the key file', "{ mode: 0o600, flag: 'wx', flush: true }", "{ flag: 'wx', flush: true }"],
  ]),
  ...guardsOf('code', 'src/access/invalidation.ts', HEARTS, [
    ['a confirmation is waited for', 'await asSystem(this.db, (tx) => isAwaited(tx, seq)); waitMs', 'false as boolean; waitMs'],
    [
      'a confirmation is waited for no longer than a call may take',
      'if (this.clock.monotonicMs() > giveUpMs) {\n        throw new MercatoError',
      'if (this.clock.monotonicMs() > 1e300) {\n        throw new MercatoError',
    ],
    ['memory is fresh for a lease', 'return this.clock.monotonicMs() - this.freshFromMs < LIMITS.leaseMs;', 'return true;'],
    ['a process that was removed trusts nothing', 'return this.stopTrusting();', 'return;'],
    [
      'memory is fresh from the start of a heartbeat',
      'if (this.isFresh() || this.applying === 0) this.freshFromMs = startMs;',
      'if (this.isFresh() || this.applying === 0) this.freshFromMs = this.clock.monotonicMs();',
    ],
    ['after a lapse memory is trusted behind the handlers', 'if (this.isFresh() || this.applying === 0) this', 'this'],
    [
      'a process confirms what its handlers have done',
      'Promise.all([this.lastApplied, ...forgotten]).then',
      'Promise.all([this.lastApplied]).then',
    ],
    ['a process confirms in order', 'Promise.all([this.lastApplied, ...forgotten]).then', 'Promise.all(forgotten).then'],
    ['a process that ends is not fresh', 'await this.running;\n    this.freshFromMs = Number.NEGATIVE_INFINITY;', 'await this.running;'],
    [
      'a process signs off',
      'await asSystem(this.db, (tx) => signOff(tx, this.processId)).catch((error: unknown) => this.report(error));',
      '',
    ],
  ]),
  ...guardsOf('code', 'src/access/process-rows.ts', HEARTS, [
    ['a process that has confirmed is not awaited', 'where confirmed_seq < ${seq} and heartbeat_at', 'where heartbeat_at'],
    ['a dead process is not awaited', ' and heartbeat_at >= mercato_now() - make_interval(secs => ${LIMITS.leaseMs / 1000}::float8)', ''],
    ['a process says that it lives', 'set heartbeat_at = mercato_now(), confirmed_seq', 'set confirmed_seq'],
    [
      'a process says what it has done',
      'set heartbeat_at = mercato_now(), confirmed_seq = ${appliedSeq} where',
      'set heartbeat_at = mercato_now() where',
    ],
    [
      'a silent process is removed',
      "await tx.$executeRaw`delete from server_process where heartbeat_at < mercato_now() - interval '1 hour'`;",
      '',
    ],
    ['an invalidation outlives the processes that may have missed it', "interval '2 hours'", "interval '0 hours'"],
    ['invalidations are read in order', 'where seq > ${seq} order by seq`', 'where seq > ${seq} order by seq desc`'],
  ]),
  ...guardsOf('code', 'src/base/idempotency.ts', KEYS, [
    [
      "a mutation's key is in form",
      "&& key.isWellFormed()) return;\n  throw badInput('idempotencyKey'",
      "&& key.isWellFormed()) return;\n  badInput('idempotencyKey'",
    ],
    ["a mutation's key has one input", 'if (!known?.same) {\n    throw new MercatoError', 'if (!known) {\n    throw new MercatoError'],
    [
      "a mutation's key is its tenant's",
      'where tenant_id = ${tenantId}::uuid and mutation = ${mutation} and key',
      'where mutation = ${mutation} and key',
      ALONE,
    ],
    ["a mutation's key is its mutation's", '::uuid and mutation = ${mutation} and key = ${key}`', '::uuid and key = ${key}`', ALONE],
  ]),
];
