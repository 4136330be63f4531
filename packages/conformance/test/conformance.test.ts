import { conformance } from '../src/index.ts';
import { copying } from './copying-driver.ts';
import copies from '../../../docs/copies.js';
import { mapping } from './mapping-driver.ts';

for (const driver of [copying, mapping, copies]) conformance({ driver });
