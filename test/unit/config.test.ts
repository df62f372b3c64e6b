import { describe, expect, it } from 'vitest';
import { addressUrl, ConfigError, readConfig } from '../../src/config.ts';

function faultsOf(env: Record<string, string>) {
  try {
    readConfig(env);
  } catch (error) {
    if (error instanceof ConfigError) return error.faults;
    throw error;
  }
  return [];
}

describe('configuration', () => {
  it('of nothing is an embedded, seeded development server on loopback', () => {
    expect(readConfig({})).toEqual({
      production: false,
      databaseUrl: null,
      databaseServerUrl: null,
      dataDir: '.mercato',
      host: '127.0.0.1',
      port: 4000,
      publicUrl: null,
      seed: true,
      jwtKeys: null,
      commissionBps: 1000,
      currency: 'EUR',
      modelStoreDir: '.mercato/models',
      maxBodyBytes: 16 * 1024 * 1024,
      replayHours: 24,
      devices: 'auto',
      deviceEnvironment: {},
      maxLoaded: 16,
      deviceMemoryMb: expect.any(Number),
      modelMemoryMb: expect.any(Number),
      keepAliveS: 900,
      replicasMax: expect.any(Number),
      processes: 1,
      logLevel: 'info',
    });
  });

  it('seeds Postgres only where told to', () => {
    const DATABASE_URL = 'postgres://mercato@localhost/mercato';
    expect(readConfig({ DATABASE_URL }).seed).toBe(false);
    expect(readConfig({ DATABASE_URL, MERCATO_SEED: '1' }).seed).toBe(true);
    expect(readConfig({ MERCATO_SEED: '0' }).seed).toBe(false);
  });

  it('keeps models in the data directory unless told otherwise', () => {
    expect(readConfig({ MERCATO_DATA: '/var/mercato' }).modelStoreDir).toBe('/var/mercato/models');
    expect(readConfig({ MERCATO_DATA: '/var/mercato', MERCATO_MODEL_STORE: '/models' }).modelStoreDir).toBe('/models');
  });

  it('takes an empty variable for an absent one', () => {
    expect(readConfig({ DATABASE_URL: '', MERCATO_PORT: '' })).toEqual(readConfig({}));
  });

  it('reports every fault at once, each with the variable, what was given and what is expected', () => {
    const faults = faultsOf({ MERCATO_PORT: '65536', MERCATO_CURRENCY: 'eur', MERCATO_COMMISSION_BPS: '1.5', MERCATO_SEED: 'yes' });
    expect(faults).toEqual([
      { variable: 'MERCATO_PORT', given: '"65536"', expected: 'a whole number, 0 to 65535' },
      { variable: 'MERCATO_SEED', given: '"yes"', expected: '0, 1' },
      { variable: 'MERCATO_COMMISSION_BPS', given: '"1.5"', expected: 'a whole number, 0 to 10000' },
      { variable: 'MERCATO_CURRENCY', given: '"eur"', expected: 'an ISO 4217 code, three capital letters' },
    ]);
  });

  it.each([
    ['MERCATO_PORTT', 'MERCATO_PORT'],
    ['MERCATO_MODELSTORE', 'MERCATO_MODEL_STORE'],
    ['MERCATO_COMMISION', 'MERCATO_COMMISSION_BPS'],
  ])('refuses the unknown %s and suggests %s', (given, suggested) => {
    const [fault] = faultsOf({ [given]: '1' });
    expect(fault?.variable).toBe(given);
    expect(fault?.expected).toContain(`${suggested}?`);
  });

  it("leaves tests' and other programs' variables alone", () => {
    expect(faultsOf({ MERCATO_TEST_DATABASE_URL: 'x', PATH: '/bin', HOME: '/' })).toEqual([]);
  });

  it('runs one process with the embedded database, and says so', () => {
    expect(readConfig({ MERCATO_PROCESSES: '1' })).toEqual(readConfig({}));
    expect(faultsOf({ MERCATO_DEVICES: 'cuda' })[0]?.expected).toContain('cuda:0,webgpu,cpu');
    expect(readConfig({ MERCATO_DEVICES: 'cuda:1,cpu' }).devices).toBe('cuda:1,cpu');
    expect(faultsOf({ MERCATO_PROCESSES: '4' })[0]?.expected).toContain('set DATABASE_URL');
    expect(readConfig({ MERCATO_PROCESSES: '4', DATABASE_URL: 'postgres://a@b/c' }).processes).toBe(4);
  });

  it('never repeats a secret', () => {
    const secret = 'hunter2';
    const faults = faultsOf({ DATABASE_URL: `mysql://u:${secret}@h/d`, DATABASE_SERVER_URL: secret, MERCATO_JWT_KEYS: `{"d":"${secret}"` });
    expect(faults).toHaveLength(3);
    expect(new ConfigError(faults).message).not.toContain(secret);
  });

  it('refuses a serving login without a migrating one', () => {
    expect(faultsOf({ DATABASE_SERVER_URL: 'postgres://u@h/d' })).toMatchObject([{ variable: 'DATABASE_URL', given: 'absent' }]);
  });

  it('shows an address as a person can open it', () => {
    expect(addressUrl('127.0.0.1', 4000)).toBe('http://127.0.0.1:4000');
    expect(addressUrl('0.0.0.0', 80)).toBe('http://127.0.0.1:80');
    expect(addressUrl('::', 4000)).toBe('http://[::1]:4000');
  });
});
