import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { identityModel } from '../inference/tiny-models.ts';
import { asAdmin } from '../support/admin.ts';
import { type CatalogRig, openCatalog } from '../support/catalog.ts';
import { codeOf } from '../support/core.ts';

let rig: CatalogRig;
beforeAll(async () => {
  rig = await openCatalog();
});
afterAll(() => rig[Symbol.asyncDispose]());

const BY = { userId: null };

/** A published model with three READY versions, the first live. */
async function shop(plans = [{ name: 'basic', unitPriceNanos: '1000' }]) {
  const owner = await rig.tenant();
  const model = await rig.publish(owner.id, { bytes: identityModel('FP32', ['N', 2]), plans });
  const versions = [model.version?.id ?? ''];
  // One after the other: their numbers are in this order.
  for (const size of [3, 4]) versions.push((await rig.version(owner.id, model.id, identityModel('FP32', ['N', size]))).id);
  const promote = (index: number, alias = 'live') => rig.catalog.promoteVersion(owner.id, { versionId: versions[index] ?? '', alias }, BY);
  const rollback = (alias = 'live') => rig.catalog.rollbackVersion(owner.id, { modelId: model.id, alias }, BY);
  const versionOf = async (tenantId: string, name: string) =>
    versions.indexOf((await rig.catalog.entitlement({ tenantId }, `${model.handle}${name}`)).version.id);
  return { owner, model, versions, promote, rollback, versionOf };
}

async function consumer(planId: string | undefined): Promise<string> {
  const { id } = await rig.tenant();
  await rig.catalog.subscribe(id, planId ?? '');
  return id;
}

describe('an alias', () => {
  it('moves to a version, which is offered with it; what others call follows from when the promotion returns', async () => {
    const { model, promote, versionOf, owner } = await shop();
    const buyer = await consumer(model.plans[0]?.id);
    expect(await versionOf(buyer, '')).toBe(0);
    await expect(versionOf(buyer, '@2')).rejects.toMatchObject({ code: 'NOT_FOUND' });
    expect((await promote(1)).version?.number).toBe(2);
    expect([await versionOf(buyer, ''), await versionOf(buyer, '@live'), await versionOf(buyer, '@2')]).toEqual([1, 1, 1]);
    await promote(2, 'next');
    expect([await versionOf(buyer, ''), await versionOf(buyer, '@next'), await versionOf(owner.id, '@next')]).toEqual([1, 2, 2]);
    await expect(versionOf(buyer, '@other')).rejects.toThrow(`No published version is named ${model.handle}@other.`);
  });

  it('goes back to what was there before, as often as there was something', async () => {
    const { promote, rollback, versionOf, owner } = await shop();
    await promote(1);
    await promote(2);
    await rollback();
    expect(await versionOf(owner.id, '')).toBe(1);
    await promote(2);
    await rollback();
    expect(await versionOf(owner.id, '')).toBe(1);
    await rollback();
    expect(await versionOf(owner.id, '')).toBe(0);
    expect(await codeOf(() => rollback())).toBe('CONFLICT');
    expect(await codeOf(() => rollback('never'))).toBe('CONFLICT');
  });

  it('keeps who moved it, from where to where', async () => {
    const { model, versions, promote, rollback } = await shop();
    await promote(1);
    await rollback();
    const moves = await asAdmin(rig.db, (tx) => tx.aliasMove.findMany({ where: { modelId: model.id }, orderBy: { id: 'asc' } }));
    expect(moves.map(({ kind, fromVersionId, toVersionId }) => [kind, fromVersionId, toVersionId])).toEqual([
      ['PROMOTE', null, versions[0]],
      ['PROMOTE', versions[0], versions[1]],
      ['ROLLBACK', versions[1], versions[0]],
    ]);
    expect(moves[2]?.undoesId).toBe(moves[1]?.id);
  });

  it('of two promotions at once has one after the other, and both are in the book', async () => {
    const { model, promote } = await shop();
    await Promise.all([promote(1), promote(2)]);
    const moves = await asAdmin(rig.db, (tx) => tx.aliasMove.findMany({ where: { modelId: model.id }, orderBy: { id: 'asc' } }));
    expect(moves).toHaveLength(3);
    expect(moves[2]?.fromVersionId).toBe(moves[1]?.toVersionId);
  });

  it('is refused for names that cannot be one, versions that are not READY, and others', async () => {
    const { promote, owner, model } = await shop();
    for (const alias of ['', '2', 'Live', 'a--b', '-a', 'a'.repeat(40)])
      expect(await codeOf(() => promote(1, alias))).toBe('BAD_USER_INPUT');
    const rejected = await rig.version(owner.id, model.id, Buffer.from('no model'));
    const of = (tenantId: string) => rig.catalog.promoteVersion(tenantId, { versionId: rejected.id, alias: 'live' }, BY);
    expect(await codeOf(() => of(owner.id))).toBe('CONFLICT');
    expect(await codeOf(async () => of((await rig.tenant()).id))).toBe('NOT_FOUND');
  });

  it('can be deleted where no plan sells it, but for live', async () => {
    const { owner, model, promote, versionOf } = await shop();
    await promote(1, 'small');
    const remove = (alias: string) => rig.catalog.deleteAlias(owner.id, { modelId: model.id, alias }, BY);
    expect(await codeOf(() => remove('live'))).toBe('BAD_USER_INPUT');
    await remove('small');
    expect(await codeOf(() => versionOf(owner.id, '@small'))).toBe('NOT_FOUND');
    expect(await codeOf(() => remove('small'))).toBe('NOT_FOUND');
  });
});

describe('a plan of an alias', () => {
  it('sells what that points to, and nothing else of the model', async () => {
    const { owner, model, promote, versionOf } = await shop();
    await promote(1, 'small');
    const published = await rig.catalog.publishListing(owner.id, {
      modelId: model.id,
      modelVersionId: null,
      summary: null,
      tags: null,
      plans: [
        { name: 'basic', unitPriceNanos: '1000' },
        { name: 'small', unitPriceNanos: '400', alias: 'small' },
      ],
    });
    const planOf = (name: string) => published.plans.find((plan) => plan.name === name)?.id;
    const [whole, small] = [await consumer(planOf('basic')), await consumer(planOf('small'))];
    expect([await versionOf(whole, ''), await versionOf(small, ''), await versionOf(small, '@small')]).toEqual([0, 1, 1]);
    expect(await codeOf(() => versionOf(small, '@live'))).toBe('NOT_SUBSCRIBED');
    expect(await codeOf(() => versionOf(small, '@1'))).toBe('NOT_SUBSCRIBED');
    await promote(2, 'small');
    expect([await versionOf(whole, ''), await versionOf(small, '')]).toEqual([0, 2]);
    expect(await codeOf(() => rig.catalog.deleteAlias(owner.id, { modelId: model.id, alias: 'small' }, BY))).toBe('CONFLICT');
  });

  it('is refused where the model has no such alias', async () => {
    const owner = await rig.tenant();
    const plans = [{ name: 'small', unitPriceNanos: '1', alias: 'small' }];
    await expect(rig.publish(owner.id, { bytes: identityModel('FP32', ['N', 2]), plans })).rejects.toMatchObject({
      code: 'CONFLICT',
      data: { field: 'plans[0].alias' },
    });
  });
});
