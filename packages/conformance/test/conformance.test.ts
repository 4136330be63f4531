import { conformance } from '../src/index.ts';
import { copying } from './copying-driver.ts';
import { mapping } from './mapping-driver.ts';

for (const driver of [copying, mapping]) conformance({ driver });
