/**
 * `npm run audit [-- --tenant NAME]`: every invariant as a query, of all tenants or of one; exits 1 where one returns a row. Beside a running embedded
 * server it asks that server.
 */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { DataDirectoryLocked, openEmbedded } from '../base/database-embedded.ts';
import { openPostgres } from '../base/database-postgres.ts';
import { createLog } from '../base/log.ts';
import { type Config, readConfig } from '../config.ts';
import { type Finding, runAuditOf } from '../prediction/prediction.ts';

/** A fault that a person mends: said in words. */
function fail(message: string): never {
  process.stderr.write(`The audit did not run.\n${message}\n`);
  process.exit(2);
}

function configure(): Config {
  try {
    return readConfig(process.env);
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error));
  }
}

function parseTenant(): string | null {
  try {
    return parseArgs({ options: { tenant: { type: 'string' } } }).values.tenant ?? null;
  } catch (error) {
    return fail(`${error instanceof Error ? error.message : error}\nusage: npm run audit [-- --tenant NAME]`);
  }
}

const tenantName = parseTenant();
const config = configure();
const dataDir = resolve(config.dataDir);

async function findings(): Promise<Finding[]> {
  const log = createLog('error');
  if (config.databaseUrl !== null) {
    await using db = await openPostgres({ url: config.databaseUrl, serverUrl: config.databaseServerUrl, poolSize: 1 }, log);
    return await runAuditOf(db, tenantName);
  }
  if (!existsSync(join(dataDir, 'postgres'))) fail(`There is no database in ${dataDir}. Set MERCATO_DATA or DATABASE_URL.`);
  try {
    await using db = await openEmbedded(dataDir, log);
    return await runAuditOf(db, tenantName);
  } catch (error) {
    if (!(error instanceof DataDirectoryLocked)) throw error;
    return askServer();
  }
}

async function askServer(): Promise<Finding[]> {
  const { url, token }: { url: string; token: string } = JSON.parse(await readFile(join(dataDir, 'admin.json'), 'utf8'));
  const query = tenantName === null ? '' : `?${new URLSearchParams({ tenant: tenantName })}`;
  const response = await fetch(`${url}/admin/audit${query}`, { method: 'POST', headers: { 'x-mercato-admin': token } });
  if (!response.ok) throw new Error(`the running server answered ${response.status}: ${await response.text()}`);
  return (await response.json()) as Finding[];
}

const found = await findings().catch((error: unknown) => fail(error instanceof Error ? error.message || String(error) : String(error)));
for (const { invariant, rows } of found) {
  console.log(`${rows.length === 0 ? 'ok  ' : 'FAIL'}  ${invariant}`);
  for (const row of rows.slice(0, 10)) console.log(`        ${JSON.stringify(row)}`);
}
const broken = found.filter(({ rows }) => rows.length > 0).length;
console.log(broken === 0 ? `\nall ${found.length} invariants hold` : `\n${broken} of ${found.length} invariants are broken`);
process.exitCode = broken === 0 ? 0 : 1;
