// Damaged images: those that were once misread (fixtures/mutants.json), and new ones.

import { malformed, type Mutant } from '@cowlab/conformance';
import { readFileSync } from 'node:fs';
import { fvd, fvdStructures } from '../src/index.ts';
import { fixtureBytes, fixtures } from './v1-lab.ts';

const corpus = JSON.parse(
  readFileSync(new URL('fixtures/mutants.json', import.meta.url), 'utf8'),
) as Mutant[];

/** Version 1, with the base that some of them have. */
const version1 = fixtures.map(({ file }) => ({
  name: file,
  files: () =>
    new Map([
      ['disk.img', fixtureBytes(file)],
      ['base.raw', fixtureBytes('base.raw')],
    ]),
}));

malformed(
  [4096, 512].map((blockBytes, index) => ({
    driver: fvd,
    structures: fvdStructures,
    options: { chunk_size: 65_536, block_size: blockBytes, journal_size: 65_536 },
    samples: index === 0 ? version1 : [],
  })),
  corpus,
  500,
);
