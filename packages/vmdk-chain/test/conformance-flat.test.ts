// Flat disks.

import { conformance } from '@cowlab/conformance';
import { vmdkFlat } from '@cowlab/vmdk-chain';
import { describe } from 'vitest';
import { judge } from './judge.ts';

describe.each([
  { subformat: 'monolithicFlat', grain_size: 4096 },
  { subformat: 'twoGbMaxExtentFlat', grain_size: 4096, extent_size: 16_384 },
])('with options %o', (options) => {
  conformance({ driver: vmdkFlat, options, judge });
});
