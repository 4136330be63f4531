import { crashes, faults, type LabPart } from '@cowlab/conformance';

/** Everything that `npm run lab` does to a driver. A part's mechanism lives in the conformance package. */
export const parts: readonly LabPart[] = [crashes, faults];
