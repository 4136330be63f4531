import type { BlockDriver } from '@cowlab/core';
import { vmdk } from './driver.ts';

/** VMDK disks that are made flat, as a driver of their own: they can have no parent. */
export const vmdkFlat: BlockDriver = {
  ...vmdk,
  capabilities: {
    ...vmdk.capabilities,
    backing: false,
    changeBacking: false,
    releaseBacking: false,
    empty: false,
  },
};
