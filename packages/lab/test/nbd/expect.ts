import { readFile } from 'node:fs/promises';
import { expect } from 'vitest';
import { run } from './judges.ts';
import type { Site } from './serving.ts';

/** Where two disks differ first; undefined when they do not. */
function firstDifference(actual: Uint8Array, expected: Uint8Array): string | undefined {
  if (Buffer.compare(actual, expected) === 0) return undefined;
  if (actual.length !== expected.length) return `${actual.length} bytes instead of ${expected.length}`;
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  return `byte ${at} is ${actual[at]} instead of ${expected[at]}`;
}

/** Ends the server: the image is whole, and holds `expected`. */
export async function expectKept(site: Site, expected: Uint8Array): Promise<void> {
  await site.stop();
  await site.opened(async (disk) => {
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    const bytes = new Uint8Array(disk.size);
    await disk.read(0, bytes);
    expect(firstDifference(bytes, expected)).toBeUndefined();
  });
}

/** What nbdcopy makes of a URI is `expected`. */
export async function expectCopy(
  uri: string,
  expected: Uint8Array,
  file: string,
  ...options: string[]
): Promise<void> {
  await run('nbdcopy', [...options, uri, file]);
  expect(firstDifference(await readFile(file), expected)).toBeUndefined();
}
