import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll } from 'vitest';

/** A folder of its own for each test file, gone when its tests are over. */
export function scratchFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'cowlab-core-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
