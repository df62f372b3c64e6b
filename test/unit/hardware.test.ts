import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { cpuHardware, vulkanHardware } from '../../src/inference/hardware.ts';

const x86 = (...flags: string[]) => cpuHardware(' A CPU ', `processor\t: 0\nfpu\t\t: yes\nflags\t\t: ${flags.join(' ')}\nbugs\t\t: mds\n`);

describe('what computes', () => {
  it.each(['avx512_vnni', 'avx_vnni', 'amx_int8', 'fma', 'f16c'])('is another processor without %s', (flag) => {
    expect(x86('fpu', 'avx2', flag)).not.toBe(x86('fpu', 'avx2'));
  });

  it('is the same processor whatever else a kernel tells of it, in any order', () => {
    expect(x86('avx2', 'fma', 'sse4_1')).toBe(x86('md_clear', 'sse4_1', 'avx2', 'sme', 'fma'));
    expect(x86('avx2')).toMatch(/^A CPU [0-9a-f]{8}$/);
    expect(cpuHardware(undefined, '')).toMatch(/^unknown [0-9a-f]{8}$/);
  });

  it('is told by all that an ARM processor can', () => {
    const arm = (features: string) => cpuHardware('Neoverse-N1', `processor\t: 0\nFeatures\t: ${features}\n`);
    expect(arm('fp asimd i8mm')).not.toBe(arm('fp asimd'));
  });

  it('is for WebGPU the drivers that were named and the graphics processors that are there', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'mercato-graphics-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const env = { VK_ICD_FILENAMES: '/usr/share/vulkan/icd.d/lvp_icd.json:/opt/vk_swiftshader_icd.json' };
    expect(vulkanHardware({}, folder)).toBe('unknown');
    expect(vulkanHardware(env, join(folder, 'absent'))).toBe('lvp_icd.json vk_swiftshader_icd.json');
    for (const name of ['renderD128', 'renderD129', 'card0']) await mkdir(join(folder, name, 'device'), { recursive: true });
    await writeFile(join(folder, 'renderD128', 'device', 'vendor'), '0x10de\n');
    await writeFile(join(folder, 'renderD128', 'device', 'device'), '0x2330\n');
    expect(vulkanHardware({}, folder)).toBe('0x10de:0x2330 unknown:unknown');
    expect(vulkanHardware(env, folder)).toBe('lvp_icd.json vk_swiftshader_icd.json 0x10de:0x2330 unknown:unknown');
  });
});
