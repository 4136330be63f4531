// The whole suite once more for images with an external data file, which are short of some capabilities.

import { conformance } from '@cowlab/conformance';
import { qcow2WithDataFile } from '@cowlab/qcow2-like';
import { describe } from 'vitest';

describe.each([
  { raw: false, options: { cluster_size: 4096 } },
  { raw: false, options: { cluster_size: 512, lazy_refcounts: true } },
  { raw: true, options: { cluster_size: 4096, preallocation: 'falloc' } },
  { raw: false, options: { cluster_size: 16_384, extended_l2: true } },
  { raw: true, options: { cluster_size: 16_384, extended_l2: true } },
])('with a data file, %o', ({ raw, options }) => {
  conformance({ driver: qcow2WithDataFile(raw), options, judge: { format: 'qcow2' } });
});
