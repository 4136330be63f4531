// Damaged images: those that were once misread (fixtures/mutants.json), and new ones.

import { malformed, type Mutant } from '@cowlab/conformance';
import { readFileSync } from 'node:fs';
import { vmdk, vmdkStructures } from '../src/index.ts';

const corpus = JSON.parse(
  readFileSync(new URL('fixtures/mutants.json', import.meta.url), 'utf8'),
) as Mutant[];

malformed(
  [{ grain_size: 4096 }, { grain_size: 4096, zeroed_grain: true }, { grain_size: 65_536 }].map((options) => ({
    driver: vmdk,
    structures: vmdkStructures,
    options,
  })),
  corpus,
  500,
);
