import type { StorageFolder } from '@cowlab/core';
import type { Lab } from './lab.ts';
import type { Twin } from './twin.ts';

/** The backing of the scenarios that have one. */
export const baseFile = 'base.img';

/** A backing image with some data, closed, and what it holds. */
export async function makeBase(lab: Lab, strides = 6): Promise<Uint8Array> {
  const base = await lab.twin({ file: baseFile, strides });
  await base.write(0, 2 * lab.stride + 300);
  await base.write(4 * lab.stride - 1000, lab.stride + 1000);
  await base.disk.close();
  lab.release(base);
  return base.model.bytes;
}

/** A new image over a new base, opened. */
export async function overlay(
  lab: Lab,
  strides = 6,
  baseStrides: number = strides,
  folder: StorageFolder = lab.folder,
): Promise<Twin> {
  const initial = await makeBase(lab, baseStrides);
  return lab.twin({ strides, backing: { file: baseFile, format: lab.driver.name }, initial, folder });
}
