import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Subject } from '../formats.ts';
import type { Cell } from '../lab.ts';
import type { Profile } from '../profiles.ts';
import type { Omission, ProcessMemoryRow } from '../schema.ts';

const run = promisify(execFile);

/** The child is a program of its own: the compiled one, also when this file runs as a source. */
const program: string = fileURLToPath(
  new URL(
    import.meta.url.endsWith('.ts') ? '../../dist/child-memory.js' : '../child-memory.js',
    import.meta.url,
  ),
);

function canMeasure(): boolean {
  return existsSync(program);
}

/**
 * Resident sets of so many fresh processes for each folder, which open the image there and read once; the folders take
 * turns, so that what else the machine does meets all alike. None where that cannot be measured.
 */
export async function residentSets(
  subject: Subject,
  folders: readonly string[],
  runs: number,
): Promise<number[][]> {
  const sets = folders.map((): number[] => []);
  for (let nth = 0; nth < runs && canMeasure(); nth++) {
    for (const [index, folder] of folders.entries()) sets[index]?.push(await residentBytes(subject, folder));
  }
  return sets;
}

async function residentBytes({ name, module = '' }: Subject, folder: string): Promise<number> {
  const { stdout } = await run(process.execPath, ['--expose-gc', program, name, folder, module]);
  return Number(stdout);
}

/*
 * G4: how much memory does a process need that opened an image with N snapshots and read once? A fresh process
 * each time, so that no cell inherits another's heap; in rounds over all cells.
 */
export async function measureProcessMemory(
  cells: readonly Cell[],
  profile: Profile,
): Promise<{ readonly rows: ProcessMemoryRow[]; readonly omissions: Omission[] }> {
  if (!canMeasure()) {
    const reason = 'the package is not built, and a child process cannot run its sources';
    const left = cells.map(({ subject }) => ({ scenario: 'process memory', format: subject.name, reason }));
    return { rows: [], omissions: left };
  }
  const rows = cells.map(
    ({ subject, snapshots }): ProcessMemoryRow => ({ format: subject.name, snapshots, rssBytes: [] }),
  );
  for (let round = 0; round < profile.memoryRuns; round++) {
    for (const [index, { subject, folder }] of cells.entries()) {
      rows[index]?.rssBytes.push(await residentBytes(subject, folder));
    }
  }
  return { rows, omissions: [] };
}
