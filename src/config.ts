import { availableParallelism, totalmem } from 'node:os';
import { join } from 'node:path';

/** Everything that an operator may choose. `databaseUrl`, `databaseServerUrl` and `jwtKeys` are secrets. */
export type Config = {
  /** GraphiQL is off. */
  production: boolean;
  /** Null: embedded, in `dataDir`. */
  databaseUrl: string | null;
  /** The login that serves, where it is another than the one that migrates. */
  databaseServerUrl: string | null;
  dataDir: string;
  host: string;
  /** 0: any free one. */
  port: number;
  /** How callers reach this server, without a slash at the end; null: as it listens. */
  publicUrl: string | null;
  seed: boolean;
  /** A JWK set of private ES256 keys as JSON; null: made and kept in `dataDir`. */
  jwtKeys: string | null;
  commissionBps: number;
  /** ISO 4217. */
  currency: string;
  modelStoreDir: string;
  maxBodyBytes: number;
  replayHours: number;
  /** `auto`, or devices in the order in which they are tried. */
  devices: string;
  /** What drivers of graphics processors read from the environment; runners get it, where they use such. */
  deviceEnvironment: Readonly<Record<string, string>>;
  /** Runners with a model at once; the memory that they may hold together, checks included, and what they may on each device other than the CPU. */
  maxLoaded: number;
  modelMemoryMb: number;
  deviceMemoryMb: number;
  /** A model that nobody called for so long is unloaded. */
  keepAliveS: number;
  /** Runners of one model version at most. */
  replicasMax: number;
  /** Server processes on the one port. */
  processes: number;
  logLevel: (typeof LOG_LEVELS)[number];
};

/** What is wrong with one variable; `given` is masked where it is a secret. */
export type ConfigFault = { variable: string; given: string; expected: string };

/** Every fault at once, for a person to read. */
export class ConfigError extends Error {
  readonly faults: readonly ConfigFault[];

  constructor(faults: readonly ConfigFault[]) {
    super(faults.map(({ variable, given, expected }) => `${variable} is ${given}; expected ${expected}`).join('\n'));
    this.faults = faults;
  }
}

const DEVICES = /^(auto|(cuda:\d{1,2}|webgpu|cpu)(,(cuda:\d{1,2}|webgpu|cpu))*)$/;
const DEVICE_VARIABLES = [
  'VK_ICD_FILENAMES',
  'XDG_RUNTIME_DIR',
  'CUDA_VISIBLE_DEVICES',
  'CUDA_DEVICE_ORDER',
  'NVIDIA_TF32_OVERRIDE',
  'LD_LIBRARY_PATH',
];
const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
const MIB = 1024 * 1024;
const MODEL_MEMORY_MB_MAX = 16_777_216;

type Env = Readonly<Record<string, string | undefined>>;

/** Reads the environment, the only place that does; an empty variable is an absent one. @throws ConfigError */
export function readConfig(env: Env): Config {
  const faults: ConfigFault[] = [];
  const known = new Set<string>();
  const read = createReaders(env, faults, known);
  const dataDir = read.text('MERCATO_DATA', '.mercato');
  const databaseUrl = read.postgresUrl('DATABASE_URL');
  const databaseServerUrl = read.postgresUrl('DATABASE_SERVER_URL');
  if (databaseServerUrl !== null && !env.DATABASE_URL) {
    faults.push({ variable: 'DATABASE_URL', given: 'absent', expected: 'the login that migrates, where DATABASE_SERVER_URL is given' });
  }
  const modelMemoryMb = read.integer('MERCATO_MODEL_MEMORY_MB', 64, MODEL_MEMORY_MB_MAX, Math.max(64, Math.floor(memoryBytes() / MIB / 2)));
  const config: Config = {
    production: read.choice('NODE_ENV', ['development', 'production', 'test'], 'development') === 'production',
    databaseUrl,
    databaseServerUrl,
    dataDir,
    host: read.text('MERCATO_HOST', '127.0.0.1'),
    port: read.integer('MERCATO_PORT', 0, 65_535, 4000),
    publicUrl: read.httpUrl('MERCATO_PUBLIC_URL'),
    seed: read.choice('MERCATO_SEED', ['0', '1'], env.DATABASE_URL ? '0' : '1') === '1',
    jwtKeys: read.json('MERCATO_JWT_KEYS', 'a JWK set of private ES256 keys'),
    commissionBps: read.integer('MERCATO_COMMISSION_BPS', 0, 10_000, 1_000),
    currency: read.pattern('MERCATO_CURRENCY', /^[A-Z]{3}$/, 'an ISO 4217 code, three capital letters', 'EUR'),
    modelStoreDir: read.directory('MERCATO_MODEL_STORE', join(dataDir, 'models')),
    maxBodyBytes: read.integer('MERCATO_MAX_BODY_BYTES', 1024, 512 * MIB, 16 * MIB),
    replayHours: read.integer('MERCATO_REPLAY_HOURS', 1, 24 * 365, 24),
    devices: read.pattern('MERCATO_DEVICES', DEVICES, 'auto, or devices in their order: cuda:0,webgpu,cpu', 'auto'),
    deviceEnvironment: pick(env, DEVICE_VARIABLES),
    maxLoaded: read.integer('MERCATO_MAX_LOADED', 1, 1_000, 16),
    modelMemoryMb,
    deviceMemoryMb: read.integer('MERCATO_DEVICE_MEMORY_MB', 64, MODEL_MEMORY_MB_MAX, modelMemoryMb),
    keepAliveS: read.integer('MERCATO_KEEP_ALIVE_S', 1, 31_536_000, 900),
    replicasMax: read.integer('MERCATO_REPLICAS_MAX', 1, 64, Math.min(64, availableParallelism())),
    processes: read.integer('MERCATO_PROCESSES', 1, 64, databaseUrl === null ? 1 : Math.min(64, availableParallelism())),
    logLevel: read.choice('MERCATO_LOG_LEVEL', LOG_LEVELS, 'info'),
  };
  if (databaseUrl === null && config.processes > 1) {
    faults.push({
      variable: 'MERCATO_PROCESSES',
      given: String(config.processes),
      expected: '1 with the embedded database, which one process has; set DATABASE_URL for more',
    });
  }
  faults.push(...unknownVariables(env, known));
  if (faults.length > 0) throw new ConfigError(faults);
  return config;
}

function pick(env: Env, names: readonly string[]): Record<string, string> {
  return Object.fromEntries(names.flatMap((name) => (env[name] ? [[name, env[name]]] : [])));
}

function memoryBytes(): number {
  return Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY);
}

/** `http://host:port` without a slash at the end; an address that stands for all is shown as loopback. */
export function addressUrl(host: string, port: number): string {
  const name = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host;
  return `http://${name.includes(':') ? `[${name}]` : name}:${port}`;
}

/** Readers that note the variable as known, and a fault, and go on with the default. */
function createReaders(env: Env, faults: ConfigFault[], known: Set<string>) {
  function value<T>(variable: string, fallback: T, expected: string, parse: (text: string) => T | undefined, secret = false): T {
    known.add(variable);
    const text = env[variable];
    if (text === undefined || text === '') return fallback;
    const parsed = parse(text);
    if (parsed !== undefined) return parsed;
    faults.push({ variable, given: secret ? '(not shown)' : JSON.stringify(text.slice(0, 100)), expected });
    return fallback;
  }
  const pattern = (variable: string, shape: RegExp, expected: string, fallback: string) =>
    value(variable, fallback, expected, (text) => (shape.test(text) ? text : undefined));
  return {
    pattern,
    text: (variable: string, fallback: string) => pattern(variable, /^\S(.*\S)?$/, 'no space at either end', fallback),
    directory: (variable: string, fallback: string) => pattern(variable, /^(?!\w+:\/\/)/, 'a directory', fallback),
    integer: (variable: string, min: number, max: number, fallback: number) =>
      value(variable, fallback, `a whole number, ${min} to ${max}`, (text) => {
        const number = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
        return number >= min && number <= max ? number : undefined;
      }),
    choice: <T extends string>(variable: string, options: readonly T[], fallback: T, expected: string = options.join(', ')): T =>
      value(variable, fallback, expected, (text) => options.find((option) => option === text)),
    postgresUrl: (variable: string) =>
      value<string | null>(
        variable,
        null,
        'postgres://login:password@host/database',
        (text) => urlOf(text, ['postgres:', 'postgresql:']),
        true,
      ),
    httpUrl: (variable: string) =>
      value<string | null>(variable, null, 'a URL as https://models.example.com', (text) =>
        urlOf(text, ['http:', 'https:'])?.replace(/\/+$/, ''),
      ),
    json: (variable: string, expected: string) =>
      value<string | null>(variable, null, expected, (text) => (isJsonObject(text) ? text : undefined), true),
  };
}

function urlOf(text: string, protocols: readonly string[]): string | undefined {
  const url = URL.canParse(text) ? new URL(text) : null;
  return url && protocols.includes(url.protocol) ? text : undefined;
}

function isJsonObject(text: string): boolean {
  try {
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed);
  } catch {
    return false;
  }
}

/** Tests have variables of their own. */
function unknownVariables(env: Env, known: ReadonlySet<string>): ConfigFault[] {
  return Object.keys(env)
    .filter((name) => name.startsWith('MERCATO_') && !name.startsWith('MERCATO_TEST_') && !known.has(name))
    .map((variable) => ({ variable, given: 'unknown', expected: `a known variable: did you mean ${nearest(variable, known)}?` }));
}

function nearest(name: string, known: ReadonlySet<string>): string {
  const candidates = [...known].filter((candidate) => candidate.startsWith('MERCATO_'));
  const distances = new Map(candidates.map((candidate) => [candidate, editDistance(name, candidate)]));
  return candidates.reduce((best, candidate) => ((distances.get(candidate) ?? 0) < (distances.get(best) ?? 0) ? candidate : best));
}

/** Levenshtein's, one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
