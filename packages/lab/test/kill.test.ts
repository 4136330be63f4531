// Process kill, a bounded part of it. Victims are started from the build.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { kills, type LabPart, type Violation } from '@cowlab/conformance';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { parts } from '../src/parts.ts';
import { subjectsOf } from '../src/subjects.ts';

const seed = Number(process.env['COWLAB_SEED'] ?? Math.floor(Math.random() * 0x7fff_ffff));
const killsPerDriver = 17;
/** On a machine that has other work to do, each of them takes seconds. */
const patienceMs = 240_000;
const scratch = mkdtempSync(join(tmpdir(), 'cowlab-kill-'));

beforeAll(() => {
  // The files of a violation are kept in the folder for temporary files, which is to be gone after this.
  vi.stubEnv('TMPDIR', scratch);
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(scratch, { recursive: true, force: true });
});

/** Kills until there were `most`, or a violation. */
async function killed(part: LabPart, driver: string, most: number) {
  const violations: Violation[] = [];
  let count = 0;
  await part.run({
    subjects: subjectsOf(driver),
    seed,
    shares: 1,
    hasTime: () => count < most && violations.length === 0,
    timeUsed: () => count / most,
    count: (_, { verified }) => {
      count += verified;
    },
    violation: (violation) => violations.push(violation),
  });
  return { count, violations };
}

describe.each(['fvd', 'qcow2', 'vmdk'])('a process that works on a %s image and is killed', (driver) => {
  it(
    `leaves what it was promised, ${killsPerDriver} times`,
    async () => {
      const part = parts.find(({ name }) => name === 'kill')!;
      const { count, violations } = await killed(part, driver, killsPerDriver);
      expect(violations, `COWLAB_SEED=${seed}`).toEqual([]);
      expect(count).toBe(killsPerDriver);
    },
    patienceMs,
  );

  it.each(['driver', 'storage'])(
    'is found out when its %s acknowledges a flush that was none',
    async (deceit) => {
      const program = fileURLToPath(new URL('deceiver.mjs', import.meta.url));
      const part = kills((order) =>
        spawn(process.execPath, [program, JSON.stringify(order), deceit], {
          stdio: ['ignore', 'pipe', 'pipe'],
        }),
      );
      const { violations } = await killed(part, driver, 30);
      expect(violations, `COWLAB_SEED=${seed}`).toHaveLength(1);
      expect(violations[0]?.message).toMatch(/was never there|is lost|is back|has changed/);
    },
    patienceMs,
  );
});
