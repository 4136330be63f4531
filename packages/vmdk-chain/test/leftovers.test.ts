import { FaultFolder } from '@cowlab/conformance';
import { createDisk, MemoryFolder, openDisk } from '@cowlab/core';
import { expect, it } from 'vitest';
import { vmdk } from '../src/index.ts';

it('a new disk does not take over the snapshots that one of its name has left behind', async () => {
  const folder = new MemoryFolder();
  const location = { folder, file: 'disk.vmdk' };
  const create = (): Promise<void> => createDisk(location, { driver: vmdk, size: 1024 * 1024 });
  await create();
  const disk = await openDisk(location, { drivers: [vmdk] });
  await disk.snapshots.create('old');
  await disk.close();
  await folder.remove('disk.vmdk');
  await expect(create()).rejects.toMatchObject({ code: 'ERR_EXISTS', data: { file: 'disk.vmsd' } });
  expect(await folder.list()).toEqual(['disk-000001.vmdk', 'disk.vmsd']);
});

it('a list without snapshots is in nobody’s way', async () => {
  const folder = new MemoryFolder();
  const location = { folder, file: 'disk.vmdk' };
  await createDisk(location, { driver: vmdk, size: 1024 * 1024 });
  const disk = await openDisk(location, { drivers: [vmdk] });
  await disk.snapshots.create('old');
  await disk.snapshots.delete('old');
  await disk.close();
  await folder.remove('disk.vmdk');
  await createDisk(location, { driver: vmdk, size: 1024 * 1024 });
  const again = await openDisk(location, { drivers: [vmdk] });
  expect(await again.snapshots.list()).toEqual([]);
  await again.close();
});

it('check fails when it cannot read the list of snapshots, and does not call it corrupt', async () => {
  const folder = new FaultFolder(new MemoryFolder());
  const location = { folder, file: 'disk.vmdk' };
  await createDisk(location, { driver: vmdk, size: 1024 * 1024 });
  const disk = await openDisk(location, { drivers: [vmdk] });
  await disk.snapshots.create('kept');
  folder.arm({ kind: 'EIO', methods: ['open'], nth: 1 });
  await expect(disk.check()).rejects.toMatchObject({ code: 'ERR_IO' });
  expect(await disk.check()).toMatchObject({ corruptions: 0 });
  await disk.close();
});
