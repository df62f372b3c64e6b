import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';

/** Chromium's software implementation of Vulkan, or whatever driver the environment names. */
const ICD = process.env.VK_ICD_FILENAMES ?? '/usr/lib/chromium/vk_swiftshader_icd.json';

/** Whether WebGPU can run here. */
export const hasVulkan =
  existsSync(ICD) && ['/usr/lib/x86_64-linux-gnu', '/usr/lib64', '/usr/lib'].some((lib) => existsSync(`${lib}/libvulkan.so.1`));
/** What its runners get of the environment. */
export const vulkan = { VK_ICD_FILENAMES: ICD, XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR ?? tmpdir() };
