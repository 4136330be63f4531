// Damaged images: those that were once misread (fixtures/mutants.json), and new ones.

import { malformed, type Mutant, type Sample } from '@cowlab/conformance';
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { qcow2, qcow2Structures, qcow2WithDataFile } from '../src/index.ts';

const corpus = JSON.parse(
  readFileSync(new URL('fixtures/mutants.json', import.meta.url), 'utf8'),
) as Mutant[];

/** Of QEMU 7.2: a bitmap that is enabled, one that is not, an empty one; a snapshot; data. */
const withBitmaps: Sample = {
  name: 'bitmaps',
  files: () => {
    const bytes = gunzipSync(readFileSync(new URL('fixtures/bitmaps.qcow2.gz', import.meta.url)));
    return new Map([['disk.img', new Uint8Array(bytes)]]);
  },
};

const inOneFile = [
  { cluster_size: 4096 },
  { cluster_size: 512, refcount_bits: 8 },
  { cluster_size: 1024, compat: '0.10' },
  { cluster_size: 4096, lazy_refcounts: true },
  { cluster_size: 16_384, extended_l2: true },
].map((options, index) => ({ driver: qcow2, options, samples: index === 0 ? [withBitmaps] : [] }));

const inTwo = [false, true].map((raw) => ({
  driver: qcow2WithDataFile(raw),
  options: { cluster_size: 512 },
}));

malformed(
  [...inOneFile, ...inTwo].map((subject) => ({
    ...subject,
    structures: qcow2Structures,
    unchecked: ['l2_table.compressed_cluster'],
  })),
  corpus,
  500,
);
