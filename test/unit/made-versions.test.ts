import { expect, test } from 'vitest';
import type { ModelVersionView } from '../../src/catalog/catalog.ts';
import { addReadyVersion } from '../../src/training/made-versions.ts';

const input = { modelId: 'm', file: { sha256: '', sizeBytes: 1 } };

/** What `addVersion` answers, one call after the other, and then the last again. */
function answering(...states: ModelVersionView['state'][]) {
  const asked: ModelVersionView['state'][] = [];
  const addVersion = async () => {
    const state = states[Math.min(asked.length, states.length - 1)] ?? 'DRAFT';
    asked.push(state);
    return { state, rejection: null } as ModelVersionView;
  };
  return { asked, addVersion };
}

const claim = (signal = new AbortController().signal) => ({ tenantId: 't', signal });

test('a version whose check waits for others is waited for, and one that is rejected is said to be', async () => {
  expect(await addReadyVersion(answering('DRAFT', 'CHECKED', 'READY'), claim(), input)).toMatchObject({ state: 'READY' });
  await expect(addReadyVersion(answering('DRAFT', 'REJECTED'), claim(), input)).rejects.toMatchObject({ code: 'MODEL_REJECTED' });
});

test('nobody waits for a check for ever, or for work that is no longer its own', async () => {
  await expect(addReadyVersion(answering('DRAFT'), claim(), input)).rejects.toThrow('not checked yet');
  const left = answering('DRAFT');
  await expect(addReadyVersion(left, claim(AbortSignal.abort(new Error('lost'))), input)).rejects.toThrow('lost');
  expect(left.asked).toEqual(['DRAFT']);
});
