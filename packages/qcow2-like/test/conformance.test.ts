import { conformance } from '@cowlab/conformance';
import { qcow2 } from '../src/index.ts';

conformance({ driver: qcow2, options: { cluster_size: 4096 }, judge: { format: 'qcow2' } });
