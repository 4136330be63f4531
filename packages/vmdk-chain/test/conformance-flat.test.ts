// Flat disks. They can have no parent, so they are put to the test as a driver that has none.

import { conformance } from '@cowlab/conformance';
import type { Capabilities } from '@cowlab/core';
import { vmdk } from '@cowlab/vmdk-chain';
import { describe } from 'vitest';
import { judge } from './judge.ts';

const capabilities: Capabilities = {
  ...vmdk.capabilities,
  backing: false,
  changeBacking: false,
  releaseBacking: false,
  empty: false,
};

describe.each([
  { subformat: 'monolithicFlat', grain_size: 4096 },
  { subformat: 'twoGbMaxExtentFlat', grain_size: 4096, extent_size: 16_384 },
])('with options %o', (options) => {
  conformance({ driver: { ...vmdk, capabilities }, options, judge });
});
