import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { crashes, damages, faults, kills, type LabPart, races } from '@cowlab/conformance';

// Node 20 runs no TypeScript: seen from the sources, as tests do, the victim is the one of the last build.
const victim = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? '../dist/victim.js' : './victim.js', import.meta.url),
);

/** Everything that `npm run lab` does to a driver. A part's mechanism lives in the conformance package. */
export const parts: readonly LabPart[] = [
  crashes,
  faults,
  races,
  damages,
  kills((order) =>
    spawn(process.execPath, [victim, JSON.stringify(order)], { stdio: ['ignore', 'pipe', 'pipe'] }),
  ),
];
