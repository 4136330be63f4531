// Disks of several extents: small ones, so that a few bytes cross from one to the next.

import { conformance } from '@cowlab/conformance';
import { vmdk } from '@cowlab/vmdk-chain';
import { judge } from './judge.ts';

const options = { subformat: 'twoGbMaxExtentSparse', grain_size: 4096, extent_size: 16_384 };
conformance({ driver: vmdk, options, judge });
