import { conformance } from '@cowlab/conformance';
import { vmdk } from '@cowlab/vmdk-chain';
import { judge } from './judge.ts';

conformance({ driver: vmdk, options: { grain_size: 4096 }, devices: true, judge });
