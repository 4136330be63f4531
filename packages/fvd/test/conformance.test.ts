import { conformance } from '@cowlab/conformance';
import { describe } from 'vitest';
import { fvd } from '../src/index.ts';

describe.each([{}, { chunk_size: 65_536, block_size: 4096 }])('with options %j', (options) => {
  conformance({ driver: fvd, options, checksummed: true });
});
