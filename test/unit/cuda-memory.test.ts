import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { CudaMemory, cudaBytesByDevice, cudaModels } from '../../src/inference/cuda-memory.ts';
import { CUDA_ENVIRONMENT } from '../../src/inference/devices.ts';
import { hardwareOf } from '../../src/inference/hardware.ts';

const MIB = 1024 ** 2;

/** Puts a driver's tool first on the path that runs `script`, and counts in `asked` how often it was started. */
async function tool(script: string) {
  const folder = await mkdtemp(join(tmpdir(), 'mercato-tool-'));
  const [path, asked] = [process.env.PATH, join(folder, 'asked')];
  await writeFile(asked, '');
  await writeFile(join(folder, 'nvidia-smi'), `#!/bin/sh\necho "$1" >> ${asked}\n${script}\n`);
  await chmod(join(folder, 'nvidia-smi'), 0o755);
  process.env.PATH = `${folder}${delimiter}${path}`;
  onTestFinished(async () => {
    process.env.PATH = path;
    await rm(folder, { recursive: true, force: true });
  });
  return async () => (await readFile(asked, 'utf8')).split('\n').length - 1;
}

describe.skipIf(process.platform === 'win32')('what the driver tells of memory', () => {
  it('is summed for a process on several devices, without what it does not know', async () => {
    await tool('printf "123, 45\\n124, [N/A]\\n[Not Found], 7\\n123, 5\\n\\n"');
    expect(await new CudaMemory().byProcess()).toEqual(new Map([[123, 50 * MIB]]));
    expect(await cudaBytesByDevice()).toEqual(new Map([[123, 50 * MIB]]));
  });

  it('is asked once by all that ask together, and soon after', async () => {
    const asked = await tool('printf "1, 2\\n"');
    const memory = new CudaMemory();
    const answers = await Promise.all([memory.byProcess(), memory.byProcess(), memory.byProcess()]);
    expect(answers).toEqual(Array(3).fill(new Map([[1, 2 * MIB]])));
    await memory.byProcess();
    expect(await asked()).toBe(1);
    await memory.now();
    expect(await asked()).toBe(2);
  });

  it('is nothing where the tool fails, or prints no table', async () => {
    await tool('echo "NVIDIA-SMI has failed because it could not communicate with the driver."; exit 9');
    expect([await new CudaMemory().byProcess(), await cudaBytesByDevice()]).toEqual([new Map(), new Map()]);
  });

  it('has the models of its devices, of which any may be one that the operator chose', async () => {
    await tool('printf "0, NVIDIA H100, 550.1\\n1, NVIDIA A100, 550.1\\n\\nFailed to initialize NVML\\n"');
    expect(await cudaModels()).toEqual(
      new Map([
        [0, 'NVIDIA H100 550.1'],
        [1, 'NVIDIA A100 550.1'],
      ]),
    );
    const [known, { cpu }] = [await hardwareOf(['cuda:1', 'cuda:0', 'cpu'], CUDA_ENVIRONMENT), await hardwareOf(['cpu'], {})];
    expect(known).toEqual({ cpu, 'cuda:0': `NVIDIA H100 550.1, ${cpu}`, 'cuda:1': `NVIDIA A100 550.1, ${cpu}` });
    const chosen = await hardwareOf(['cuda:0'], { ...CUDA_ENVIRONMENT, CUDA_VISIBLE_DEVICES: '1' });
    expect(chosen).toEqual({ cpu, 'cuda:0': `NVIDIA A100 550.1 or NVIDIA H100 550.1, ${cpu}` });
    await tool('exit 9');
    expect(await hardwareOf(['cuda:0'], CUDA_ENVIRONMENT)).toEqual({ cpu, 'cuda:0': `unknown, ${cpu}` });
  });

  it('is not waited for by anybody where the tool hangs, nor asked again', async () => {
    const asked = await tool('exec sleep 8');
    const memory = new CudaMemory();
    expect(await memory.byProcess()).toEqual(new Map());
    expect(await memory.byProcess()).toEqual(new Map());
    expect(await asked()).toBe(1);
  });
});
