// The whole suite on chains that are read as one map, with few files open at a time.
import { conformance } from '@cowlab/conformance';
import type { BlockDriver } from '@cowlab/core';
import { vmdk } from '@cowlab/vmdk-chain';
import { judge } from './judge.ts';

const options = { chain: 'optimised', open_links: 3 };
const optimised: BlockDriver = {
  ...vmdk,
  open: (folder, file, context) =>
    vmdk.open(folder, file, { ...context, options: { ...context.options, ...options } }),
};

conformance({ driver: optimised, options: { grain_size: 4096 }, judge });
