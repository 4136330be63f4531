// Damaged images: those that were once misread (fixtures/mutants.json), and new ones.

import { malformed, type Mutant } from '@cowlab/conformance';
import { readFileSync } from 'node:fs';
import { qcow2, qcow2Structures, qcow2WithDataFile } from '../src/index.ts';

const corpus = JSON.parse(
  readFileSync(new URL('fixtures/mutants.json', import.meta.url), 'utf8'),
) as Mutant[];

const inOneFile = [
  { cluster_size: 4096 },
  { cluster_size: 512, refcount_bits: 8 },
  { cluster_size: 1024, compat: '0.10' },
  { cluster_size: 4096, lazy_refcounts: true },
  { cluster_size: 16_384, extended_l2: true },
].map((options) => ({ driver: qcow2, options }));

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
