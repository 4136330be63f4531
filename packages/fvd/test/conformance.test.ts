import { conformance } from '@cowlab/conformance';
import { fvd } from '../src/index.ts';

conformance({ driver: fvd });
