import type { ConformanceSubject } from '@cowlab/conformance';
import type { BlockDriver, OptionValues } from '@cowlab/core';
import { fvd } from '@cowlab/fvd';
import { qcow2 } from '@cowlab/qcow2-like';
import { vmdk } from '@cowlab/vmdk-chain';

/** Each driver with the create options it is tried with: the smallest units, so that a few bytes make a large image. */
const variants: readonly (readonly [BlockDriver, readonly OptionValues[]])[] = [
  [
    fvd,
    [
      { chunk_size: 65_536, block_size: 4096, journal_size: 65_536 },
      { chunk_size: 65_536, block_size: 8192, journal_size: 65_536 },
    ],
  ],
  [
    qcow2,
    [
      { cluster_size: 512 },
      { cluster_size: 512, refcount_bits: 64 },
      { cluster_size: 4096 },
      { cluster_size: 512, lazy_refcounts: true },
      { cluster_size: 1024, compat: '0.10' },
    ],
  ],
  [vmdk, [{ grain_size: 4096 }]],
];

export const driverNames: readonly string[] = variants.map(([{ name }]) => name);

export function subjectsOf(name: string): ConformanceSubject[] {
  const found = variants.find(([driver]) => driver.name === name);
  if (found === undefined) throw new TypeError(`no driver ${name}; there are: ${driverNames.join(', ')}`);
  const [driver, options] = found;
  return options.map((each) => ({ driver, options: each, checksummed: driver === fvd }));
}
