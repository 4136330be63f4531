import { type ConformanceSubject, groups, runScenario, scenariosFor } from '@cowlab/conformance';
import { describe, it } from 'vitest';
import { fvd } from '../src/index.ts';
import { eager, gathering } from './lab.ts';

// The suite's own power loss, for geometries that its usual run does not have, with chunks that are gathered by most
// first writes, and with tables that are published as deltas.
const subjects: [string, ConformanceSubject][] = [
  ['small blocks', { driver: fvd, options: { chunk_size: 65_536, block_size: 512, journal_size: 65_536 } }],
  ['large blocks', { driver: fvd, options: { chunk_size: 65_536, block_size: 8192, journal_size: 65_536 } }],
  [
    'few blocks',
    { driver: fvd, options: { chunk_size: 131_072, block_size: 16_384, journal_size: 262_144 } },
  ],
  ['4 places', { driver: gathering(4), options: { chunk_size: 65_536, block_size: 1024 } }],
  ['deltas over short pages', { driver: eager(), options: { chunk_size: 65_536, block_size: 512 } }],
  ['deltas and 4 places', { driver: eager(4), options: { chunk_size: 65_536, block_size: 4096 } }],
  ['6 places', { driver: gathering(6), options: { chunk_size: 131_072, block_size: 512 } }],
];

describe.each(subjects)('P9, with %s: power loss', (_, subject) => {
  const scenarios = groups
    .filter(({ name }) => name === 'power loss')
    .flatMap((group) => scenariosFor(group, subject, 'memory'));
  it.each(scenarios)('$name', (scenario) => runScenario(scenario, subject, 'memory', 20_261_124));
});
