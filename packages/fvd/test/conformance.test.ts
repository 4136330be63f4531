import { conformance } from '@cowlab/conformance';
import { describe } from 'vitest';
import { fvd } from '../src/index.ts';
import { copyingChunks, countingLive } from './lab.ts';

const small = { chunk_size: 65_536, block_size: 4096 };
describe.each([
  ['default options', fvd, {}],
  ['small chunks', fvd, small],
  ['copy_chunks', copyingChunks, small],
  ['live_refcounts', countingLive, small],
])('with %s', (_, driver, options) => {
  conformance({ driver, options, checksummed: true, devices: true });
});
