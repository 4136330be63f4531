import { createDisk, type Disk, MemoryFolder, openDisk } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { type Requests, verifiedChecksum } from '../src/contents.ts';
import { chooseSubjects } from '../src/formats.ts';
import { type Cell, fill } from '../src/lab.ts';
import { writtenBytes } from '../src/scenarios/requests.ts';
import { tiny } from './lab.ts';

const [subject] = chooseSubjects(['fvd']);
const cell: Cell = { subject: subject!, snapshots: 0, folder: '', held: [] };
const passes: Requests[] = [
  { offsets: [8192, 0, 4096], source: writtenBytes(3, 4096) },
  { offsets: [4096], source: writtenBytes(1, 4096) },
];

async function disk(): Promise<Disk> {
  const place = { folder: new MemoryFolder(), file: 'disk' };
  await createDisk(place, { driver: subject!.driver, size: 2 * 1024 * 1024 });
  const opened = await openDisk(place, { drivers: [subject!.driver], format: 'fvd' });
  await fill(opened, 0, opened.size, () => undefined);
  for (const { offsets, source } of passes) for (const offset of offsets) await opened.write(offset, source);
  return opened;
}

describe('the contents of a disk after a run', () => {
  it('have a checksum when they are what was written', async () => {
    const one = await verifiedChecksum(await disk(), cell, tiny, passes);
    expect(await verifiedChecksum(await disk(), cell, tiny, passes)).toBe(one);
  });

  it.each([
    ['a byte of the filling', 1_500_000, 1024 * 1024],
    ['a byte that was overwritten', 4097, 0],
  ])('fail the run when %s is another one', async (_, offset, piece) => {
    const wrong = await disk();
    const byte = new Uint8Array(1);
    await wrong.read(offset, byte);
    await wrong.write(
      offset,
      byte.map((value) => value ^ 1),
    );
    await expect(verifiedChecksum(wrong, cell, tiny, passes)).rejects.toMatchObject({
      code: 'ERR_CORRUPT',
      data: { offset: piece },
    });
  });

  it('fail the run when a later pass is missing', async () => {
    await expect(verifiedChecksum(await disk(), cell, tiny, passes.slice(0, 1))).rejects.toThrow('fvd, N=0');
  });
});
