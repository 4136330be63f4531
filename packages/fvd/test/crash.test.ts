import { groups, runScenario, scenariosFor } from '@cowlab/conformance';
import { describe, it } from 'vitest';
import { fvd } from '../src/index.ts';

// The suite's own power loss, for geometries that its usual run does not have.
describe.each([
  { chunk_size: 65_536, block_size: 512, journal_size: 65_536 },
  { chunk_size: 65_536, block_size: 8192, journal_size: 65_536 },
  { chunk_size: 131_072, block_size: 16_384, journal_size: 262_144 },
])('P9, with %j: power loss', (options) => {
  const subject = { driver: fvd, options };
  const scenarios = groups
    .filter(({ name }) => name === 'power loss')
    .flatMap((group) => scenariosFor(group, subject, 'memory'));
  it.each(scenarios)('$name', (scenario) => runScenario(scenario, subject, 'memory', 20_261_124));
});
