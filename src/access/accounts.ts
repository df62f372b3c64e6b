import { asSystem, type Database, type Tx } from '../base/database.ts';
import { badInput, MercatoError } from '../base/errors.ts';
import { onceFor } from '../base/idempotency.ts';
import {
  checkLabel,
  checkTenantName,
  createTenant,
  createUser,
  memberships,
  type Tenant,
  type User,
  userForSignIn,
} from '../tenancy/tenancy.ts';
import { checkPassword, type Passwords } from './passwords.ts';
import type { Principal } from './principal.ts';
import type { Sessions, SessionTokens } from './sessions.ts';
import type { Seat } from './tokens.ts';

export type Credentials = { email: string; password: string };
export type SignedIn = { user: User; tenant: Tenant; tokens: SessionTokens };
/** Without tokens in a retry. */
export type MaybeRetried = Omit<SignedIn, 'tokens'> & { tokens: SessionTokens | null };
/** `tenantName` null: in the first tenant that the user joined. */
export type SignIn = Credentials & { tenantName: string | null };
export type NewAccount = Credentials & { tenantName: string };

/** The form that HTML's e-mail field accepts, with a dot in the domain. Whether mail arrives there, only mail can tell. */
const EMAIL = /^[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+$/;

export function createAccounts({ db, passwords, sessions }: { db: Database; passwords: Passwords; sessions: Sessions }) {
  return {
    async signUp(input: NewAccount): Promise<SignedIn> {
      const account = await prepare(input);
      const made = await asSystem(db, (tx) => make(tx, account, input.tenantName));
      if (made === null) throw taken();
      return made;
    },

    async signUpOnce(input: NewAccount, idempotencyKey: string): Promise<MaybeRetried> {
      const account = await prepare(input);
      const once = (tx: Tx, { tenant }: { tenant: Tenant }, whereNew: () => Promise<void>) =>
        onceFor(tx, { tenantId: tenant.id, mutation: 'SIGN_UP', key: idempotencyKey, input: [account.email, input.tenantName] }, whereNew);
      const made = await asSystem(db, async (tx) => {
        const signedIn = await make(tx, account, input.tenantName);
        if (signedIn) await once(tx, signedIn, async () => {});
        return signedIn;
      });
      if (made) return made;
      const known = await asSystem(db, (tx) => userForSignIn(tx, account.email));
      if (!known || !(await passwords.matches(known.passwordHash, input.password))) throw taken();
      return asSystem(db, async (tx) => {
        const [first] = await memberships(tx, known.user.id);
        if (!first) throw taken();
        await once(tx, first, () => Promise.reject(taken()));
        return { user: known.user, tenant: first.tenant, tokens: null };
      });
    },

    signIn: (input: SignIn): Promise<SignedIn> => enter(input, sessions.start),
    signInOnce: (input: SignIn, idempotencyKey: string): Promise<MaybeRetried> =>
      enter(input, (tx, seat) => sessions.startOnce(tx, seat, idempotencyKey)),

    async createOperator(input: NewAccount): Promise<{ user: User; created: boolean }> {
      const account = await prepare(input);
      return asSystem(db, async (tx) => {
        const user = await createUser(tx, { ...account, isOperator: true });
        if (user) await createTenant(tx, ownTenant(input.tenantName, user));
        const present = user ?? (await userForSignIn(tx, account.email))?.user;
        if (!present?.isOperator) throw taken();
        return { user: present, created: user !== null };
      });
    },

    async createTenant(principal: Principal, input: { name: string; displayName: string | null }): Promise<Tenant> {
      const { userId } = principal;
      if (userId === null) throw new MercatoError('FORBIDDEN', 'Only a signed-in user can make a tenant.');
      const name = checkTenantName('name', input.name);
      const displayName = checkLabel('displayName', input.displayName ?? name);
      return asSystem(db, (tx) => createTenant(tx, { name, displayName, ownerUserId: userId, field: 'name' }));
    },
  };

  async function enter<T>(
    { email: text, password, tenantName }: SignIn,
    start: (tx: Tx, seat: Omit<Seat, 'sessionId'>) => Promise<T>,
  ): Promise<{ user: User; tenant: Tenant; tokens: T }> {
    const email = normalEmail(text);
    const known = email === null ? null : await asSystem(db, (tx) => userForSignIn(tx, email));
    const matches = await passwords.matches(known?.passwordHash ?? null, password);
    if (!known || !matches) throw new MercatoError('UNAUTHENTICATED', 'The e-mail or the password is wrong.');
    return asSystem(db, async (tx) => {
      const all = await memberships(tx, known.user.id);
      const seat = tenantName === null ? all[0] : all.find(({ tenant }) => tenant.name === tenantName);
      if (!seat) throw new MercatoError('UNAUTHENTICATED', 'The e-mail or the password is wrong.');
      const { id: userId, isOperator } = known.user;
      const tokens = await start(tx, { userId, isOperator, tenantId: seat.tenant.id, role: seat.role });
      return { user: known.user, tenant: seat.tenant, tokens };
    });
  }

  /** Null where the e-mail is taken. */
  async function make(tx: Tx, account: { email: string; passwordHash: string }, tenantName: string): Promise<SignedIn | null> {
    const user = await createUser(tx, { ...account, isOperator: false });
    if (!user) return null;
    const tenant = await createTenant(tx, ownTenant(tenantName, user));
    const tokens = await sessions.start(tx, { userId: user.id, isOperator: false, tenantId: tenant.id, role: 'OWNER' });
    return { user, tenant, tokens };
  }

  /** Checks in the order of the input's fields, then hashes. */
  async function prepare(input: NewAccount): Promise<{ email: string; passwordHash: string }> {
    const email = normalEmail(input.email);
    if (email === null)
      throw badInput('email', 'This is not an e-mail address.', { given: input.email.slice(0, 60), expected: 'name@example.com' });
    const password = checkPassword(input.password);
    checkTenantName('tenantName', input.tenantName);
    return { email, passwordHash: await passwords.hash(password) };
  }
}

const taken = () => new MercatoError('CONFLICT', 'The e-mail is taken.', { field: 'email' });

function ownTenant(name: string, owner: User) {
  return { name, displayName: name, ownerUserId: owner.id, field: 'tenantName' };
}

/** Trimmed and lower-cased; null where it cannot be an address. */
function normalEmail(text: string): string | null {
  const email = text.length > 300 ? '' : text.trim().toLowerCase();
  return email.length <= 254 && EMAIL.test(email) ? email : null;
}
