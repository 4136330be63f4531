import type { ConformanceSubject } from '@cowlab/conformance';
import type { BlockDriver, OptionValues } from '@cowlab/core';
import { fvd, fvdStructures } from '@cowlab/fvd';
import { qcow2, qcow2Structures, qcow2WithDataFile } from '@cowlab/qcow2-like';
import { vmdk, vmdkFlat, vmdkStructures } from '@cowlab/vmdk-chain';

/** The driver with other open options than its own. */
function tuned(driver: BlockDriver, options: OptionValues): BlockDriver {
  return {
    ...driver,
    open: (folder, file, context) =>
      driver.open(folder, file, { ...context, options: { ...context.options, ...options } }),
  };
}

const smallFvd = { chunk_size: 65_536, block_size: 4096, journal_size: 65_536 };

type Variant = Pick<ConformanceSubject, 'structures' | 'unchecked' | 'checksummed'> & {
  readonly driver: BlockDriver;
  /** Create options it is tried with. */
  readonly options: readonly OptionValues[];
  /** Open options that the first of these is tried with as well. */
  readonly openOptions?: readonly OptionValues[];
};

const qcow2Damage = { structures: qcow2Structures, unchecked: ['l2_table.compressed_cluster'] };

/**
 * What is tried, by the name that the lab has for it: a driver, or one with what images of a kind can do. The create
 * options make the smallest units, so that a few bytes make a large image. FVD also has what small images do not come to
 * otherwise: chunks that are gathered, and pages that are written as deltas.
 */
const variants: Readonly<Record<string, Variant | undefined>> = {
  fvd: {
    driver: fvd,
    options: [smallFvd, { ...smallFvd, block_size: 8192 }],
    openOptions: [{ min_delta_page: 0 }, { min_delta_page: 0, max_places: 4 }],
    structures: fvdStructures,
    checksummed: true,
  },
  qcow2: {
    driver: qcow2,
    options: [
      { cluster_size: 512 },
      { cluster_size: 512, refcount_bits: 64 },
      { cluster_size: 4096 },
      { cluster_size: 512, lazy_refcounts: true },
      { cluster_size: 1024, compat: '0.10' },
      { cluster_size: 1024, compression_type: 'zstd' },
      { cluster_size: 16_384, extended_l2: true },
    ],
    ...qcow2Damage,
  },
  'qcow2-data': {
    driver: qcow2WithDataFile(false),
    options: [{ cluster_size: 512 }, { cluster_size: 4096 }, { cluster_size: 16_384, extended_l2: true }],
    ...qcow2Damage,
  },
  'qcow2-raw': {
    driver: qcow2WithDataFile(true),
    options: [{ cluster_size: 512 }, { cluster_size: 4096 }, { cluster_size: 16_384, extended_l2: true }],
    ...qcow2Damage,
  },
  vmdk: { driver: vmdk, options: [{ grain_size: 4096 }], structures: vmdkStructures },
  'vmdk-split': {
    driver: vmdk,
    options: [{ grain_size: 4096, subformat: 'twoGbMaxExtentSparse', extent_size: 32_768 }],
    structures: vmdkStructures,
  },
  'vmdk-flat': {
    driver: vmdkFlat,
    options: [
      { grain_size: 4096, subformat: 'monolithicFlat' },
      { grain_size: 4096, subformat: 'twoGbMaxExtentFlat', extent_size: 32_768 },
    ],
    structures: vmdkStructures,
  },
};

export const driverNames: readonly string[] = Object.keys(variants);

export function subjectsOf(name: string): ConformanceSubject[] {
  const found = variants[name];
  if (found === undefined) throw new TypeError(`no driver ${name}; there are: ${driverNames.join(', ')}`);
  const { options, openOptions = [], ...subject } = found;
  const made = options.map((each) => ({ ...subject, options: each }));
  return [...made, ...openOptions.map((each) => ({ ...made[0]!, driver: tuned(subject.driver, each) }))];
}
