import { pino } from 'pino';
import { beforeAll, expect, test } from 'vitest';
import { asSystem, asTenant } from '../../src/base/database.ts';
import { poolModel } from '../inference/tiny-models.ts';
import { type CatalogRig, openCatalog } from '../support/catalog.ts';
import { hasVulkan, vulkan } from '../support/vulkan.ts';

let rig: CatalogRig;
const lines: Record<string, unknown>[] = [];
beforeAll(async () => {
  const log = pino({ level: 'warn' }, { write: (line) => lines.push(JSON.parse(line)) });
  rig = await openCatalog({ devices: hasVulkan ? 'webgpu,cpu' : 'cpu', deviceEnvironment: vulkan }, log);
  return () => rig[Symbol.asyncDispose]();
}, 60_000);

test.skipIf(!hasVulkan)(
  `a version that a device does not run is told of, and is verified on another chain alone${hasVulkan ? '' : ' (not run: no Vulkan)'}`,
  { timeout: 90_000 },
  async () => {
    const { id: tenantId } = await rig.tenant();
    const { id: modelId } = await rig.catalog.createModel(tenantId, { name: 'pool' });
    const x = { name: 'x', datatype: 'FP32', data: [[[1, 2]]] } as const;
    const y = { name: 'y', datatype: 'FP32', data: [[[2]]] } as const;
    const samples = [{ inputs: [x], outputs: [y] }];
    const uploadId = await rig.upload(tenantId, poolModel());
    const { id, state, profile } = await rig.catalog.createModelVersion(tenantId, { modelId, uploadId, samples });
    expect({ state, profile }).toMatchObject({ state: 'READY', profile: { device: 'cpu', fallbacks: [{ device: 'webgpu' }] } });
    const told = () => lines.filter(({ versionId }) => versionId === id);
    expect(told()).toMatchObject([{ level: 40, device: 'webgpu', next: 'cpu', fault: expect.stringContaining('Indices') }]);

    const reread = async () => (await asTenant(rig.db, tenantId, (tx) => tx.modelVersion.findUniqueOrThrow({ where: { id } }))).profile;
    const write = (changed: object) =>
      asTenant(rig.db, tenantId, (tx) => tx.modelVersion.updateMany({ where: { id, tenantId }, data: { profile: changed } }));
    const jobs = () =>
      asSystem(
        rig.db,
        (tx) => tx.$queryRaw<unknown[]>`select id from pgboss.job where name = 'check-version' and data->>'versionId' = ${id}`,
      );
    const before = (await jobs()).length;
    await rig.catalog.start();
    expect((await jobs()).length).toBe(before);

    const elsewhere = { device: 'cuda:7', fault: 'seen on another host' };
    const measured = { ...profile, verifiedOn: [{ device: 'cpu', runtime: 'an older one' }] };
    await write({ ...measured, fallbacks: [elsewhere] });
    await rig.catalog.start();
    const verifiedOn = [...measured.verifiedOn, ...(profile?.verifiedOn ?? [])];
    const fallbacks = [elsewhere, ...(profile?.fallbacks ?? [])];
    await expect.poll(reread, { timeout: 60_000 }).toEqual({ ...measured, verifiedOn, fallbacks });
    expect(told()).toHaveLength(2);
  },
);
