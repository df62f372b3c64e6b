import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Demo } from './seed.ts';

const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url));

export type Variables = Record<string, unknown>;

/** A marketplace in a temporary folder, in a process of its own. Disposing ends it and removes the folder. */
export type DemoServer = AsyncDisposable & {
  url: string;
  /** What its start has made: the operator's sign-in. */
  demo: Demo;
  /** The data of a GraphQL operation over HTTP; a refusal is thrown in its own words. */
  ask<T>(token: string | null, query: string, variables?: Variables): Promise<T>;
  /** Sends a file and gives the upload's id. */
  upload(token: string, bytes: Uint8Array): Promise<string>;
  /** How many invariants of meters and ledger hold, and which do not. */
  audit(): Promise<{ holds: number; broken: string[] }>;
};

export async function startDemoServer(): Promise<DemoServer> {
  const dataDir = await mkdtemp(join(tmpdir(), 'mercato-demo-'));
  const env = { PATH: process.env.PATH ?? '', MERCATO_DATA: dataDir, MERCATO_PORT: '0', MERCATO_LOG_LEVEL: 'error', MERCATO_SEED: '1' };
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', MAIN], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      await ended;
    }
    await rm(dataDir, { recursive: true, force: true });
  };
  try {
    const url = await addressOf(child);
    const demo: Demo = JSON.parse(await readFile(join(dataDir, 'demo.json'), 'utf8'));
    const ask = <T>(token: string | null, query: string, variables: Variables = {}) => askAt<T>(url, token, query, variables);
    return {
      url,
      demo,
      ask,
      upload: (token, bytes) => uploadTo(ask, token, bytes),
      audit: () => auditOf(dataDir),
      [Symbol.asyncDispose]: stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function addressOf(child: ReturnType<typeof spawn>): Promise<string> {
  return new Promise((resolve, reject) => {
    let out = '';
    child.stdout?.on('data', (part: Buffer) => {
      out += part.toString('utf8');
      const [, url] = /Mercato is at (http:\/\/\S+)\/graphql/.exec(out) ?? [];
      if (url !== undefined) resolve(url);
    });
    child.on('exit', (code) => reject(new Error(`the marketplace ended with ${code} before it was there: ${out}`)));
  });
}

type Answer<T> = { data: T | null; errors?: { message: string; extensions: { code: string; field?: string } }[] };

async function askAt<T>(url: string, token: string | null, query: string, variables: Variables): Promise<T> {
  const response = await fetch(`${url}/graphql`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(token === null ? {} : { authorization: `Bearer ${token}` }) },
    body: JSON.stringify({ query, variables }),
  });
  const { data, errors } = (await response.json()) as Answer<T>;
  const [error] = errors ?? [];
  if (error !== undefined) throw new Error(`${error.extensions.code} ${error.extensions.field ?? ''}: ${error.message}`);
  if (data === null) throw new Error('an answer without data');
  return data;
}

async function uploadTo(ask: DemoServer['ask'], token: string, bytes: Uint8Array): Promise<string> {
  const { createUpload } = await ask<{ createUpload: { upload: { id: string }; url: string } }>(
    token,
    'mutation { createUpload { upload { id } url } }',
  );
  const put = await fetch(createUpload.url, { method: 'PUT', body: new Uint8Array(bytes) });
  if (!put.ok) throw new Error(`the upload was answered ${put.status}: ${await put.text()}`);
  return createUpload.upload.id;
}

async function auditOf(dataDir: string): Promise<{ holds: number; broken: string[] }> {
  const { url, token }: { url: string; token: string } = JSON.parse(await readFile(join(dataDir, 'admin.json'), 'utf8'));
  const response = await fetch(`${url}/admin/audit`, { method: 'POST', headers: { 'x-mercato-admin': token } });
  const found = (await response.json()) as { invariant: string; rows: unknown[] }[];
  const broken = found.filter(({ rows }) => rows.length > 0).map(({ invariant }) => invariant);
  return { holds: found.length - broken.length, broken };
}
