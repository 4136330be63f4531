import type { ConformanceSubject } from '@cowlab/conformance';
import type { BlockDriver, OptionValues } from '@cowlab/core';
import { fvd, fvdStructures } from '@cowlab/fvd';
import { qcow2, qcow2Structures } from '@cowlab/qcow2-like';
import { vmdk, vmdkStructures } from '@cowlab/vmdk-chain';

/** The driver with other open options than its own. */
function tuned(driver: BlockDriver, options: OptionValues): BlockDriver {
  return {
    ...driver,
    open: (folder, file, context) =>
      driver.open(folder, file, { ...context, options: { ...context.options, ...options } }),
  };
}

const smallFvd = { chunk_size: 65_536, block_size: 4096, journal_size: 65_536 };

/**
 * Each driver with the create options it is tried with: the smallest units, so that a few bytes make a large image. FVD
 * also with what small images do not come to otherwise: chunks that are gathered, and pages that are written as deltas.
 */
const variants: readonly (readonly [BlockDriver, readonly OptionValues[], (readonly OptionValues[])?])[] = [
  [
    fvd,
    [smallFvd, { ...smallFvd, block_size: 8192 }],
    [{ min_delta_page: 0 }, { min_delta_page: 0, max_places: 4 }],
  ],
  [
    qcow2,
    [
      { cluster_size: 512 },
      { cluster_size: 512, refcount_bits: 64 },
      { cluster_size: 4096 },
      { cluster_size: 512, lazy_refcounts: true },
      { cluster_size: 1024, compat: '0.10' },
      { cluster_size: 1024, compression_type: 'zstd' },
      { cluster_size: 16_384, extended_l2: true },
    ],
  ],
  [vmdk, [{ grain_size: 4096 }]],
];

/** What damage has to know of the formats. */
const forDamage: Readonly<
  Record<string, Pick<ConformanceSubject, 'structures' | 'samples' | 'unchecked'> | undefined>
> = {
  fvd: { structures: fvdStructures },
  qcow2: { structures: qcow2Structures, unchecked: ['l2_table.compressed_cluster'] },
  vmdk: { structures: vmdkStructures },
};

export const driverNames: readonly string[] = variants.map(([{ name }]) => name);

export function subjectsOf(name: string): ConformanceSubject[] {
  const found = variants.find(([driver]) => driver.name === name);
  if (found === undefined) throw new TypeError(`no driver ${name}; there are: ${driverNames.join(', ')}`);
  const [driver, options, openOptions = []] = found;
  const made = options.map((each) => ({
    driver,
    options: each,
    checksummed: driver === fvd,
    ...forDamage[name],
  }));
  return [...made, ...openOptions.map((each) => ({ ...made[0]!, driver: tuned(driver, each) }))];
}
