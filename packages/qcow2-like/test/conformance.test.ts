import { conformance } from '@cowlab/conformance';
import { describe } from 'vitest';
import { qcow2 } from '../src/index.ts';

describe.each([
  { cluster_size: 4096 },
  { cluster_size: 512, refcount_bits: 8 },
  { cluster_size: 4096, lazy_refcounts: true },
  { cluster_size: 4096, compat: '0.10' },
  { cluster_size: 4096, compression_type: 'zstd' },
  { cluster_size: 16_384, extended_l2: true },
])('with options %o', (options) => {
  const judge = { format: 'qcow2' } as const;
  conformance({ driver: qcow2, options, judge, devices: true, copyBytes: options.cluster_size });
});
