import assert from 'node:assert/strict';
import type { Disk } from '@cowlab/core';
import { assertCoded, failsWith, failureOf } from '../expect.ts';
import type { Lab } from '../lab.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import { TraceFolder } from '../trace-folder.ts';

async function assertClosed(disk: Disk, lab: Lab): Promise<void> {
  const byte = new Uint8Array(1);
  const calls: Record<string, () => unknown> = {
    read: () => disk.read(0, byte),
    write: () => disk.write(0, byte),
    writeZeroes: () => disk.writeZeroes(0, 1),
    discard: () => disk.discard(0, lab.stride),
    flush: () => disk.flush(),
    extents: () => disk.extents().next(),
    check: () => disk.check(),
    resize: () => disk.resize(lab.size(7)),
    info: () => disk.info(),
    stats: () => disk.stats(),
    'snapshots.list': () => disk.snapshots.list(),
  };
  if (hasSnapshots(lab.capabilities)) {
    calls['snapshots.create'] = () => disk.snapshots.create('one');
    calls['snapshots.delete'] = () => disk.snapshots.delete('one');
    calls['snapshots.apply'] = () => disk.snapshots.apply('one');
    calls['snapshots.open'] = () => disk.snapshots.open('one');
  }
  for (const [name, call] of Object.entries(calls)) await failsWith('ERR_CLOSED', name, call);
}

const scenarios: readonly Scenario[] = [
  {
    name: 'every call on a closed disk is refused as closed; closing again is fine',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      const { disk } = twin;
      await Promise.all([disk.close(), disk.close()]);
      await disk.close();
      await assertClosed(disk, lab);
      twin.disk = await lab.open();
    },
  },
  {
    name: 'await using closes the disk, and keeps what was written',
    async run(lab) {
      const twin = await lab.twin();
      await twin.write(0, 100);
      const { disk } = twin;
      await disk[Symbol.asyncDispose]();
      await assertClosed(disk, lab);
      twin.disk = await lab.open();
      await twin.verify('after reopening');
    },
  },
  {
    name: 'a close lets go of every file, and so does a refused open',
    async run(lab) {
      const folder = new TraceFolder(lab.folder);
      const twin = await lab.twin({ folder });
      await twin.fill();
      if (hasSnapshots(lab.capabilities)) {
        await twin.createSnapshot('one');
        await twin.createSnapshot('two');
        await twin.write(0, 100);
        await twin.verifySnapshots();
        await twin.deleteSnapshot('one');
        await twin.applySnapshot('two');
        await twin.disk.snapshots.open('two');
      }
      await twin.disk.close();
      assert.deepEqual(folder.openFiles, []);
      if (lab.hasMagic) {
        await lab.folder.create('wrong.img').then((storage) => storage.close());
        assertCoded(await failureOf(() => lab.open({ folder, file: 'wrong.img' })), 'open');
        assert.deepEqual(folder.openFiles, []);
      }
      twin.disk = await lab.open();
    },
  },
  {
    name: 'info and stats have their shape',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      await twin.disk.flush();
      const info = await twin.disk.info();
      assert.equal(info.format, lab.driver.name);
      assert.equal(info.size, twin.size);
      assert.equal(info.unitBytes, twin.disk.unitBytes);
      assert.equal(Math.log2(info.unitBytes) % 1, 0, 'the allocation unit is a power of two');
      assert.equal(info.files[0], twin.file);
      assert.deepEqual(info.files.toSorted(), await lab.folder.list(), 'every file of the image is named');
      assert.ok(info.storageBytes >= twin.size, `storageBytes is ${info.storageBytes}`);
      for (const [key, value] of Object.entries(info.details)) {
        assert.ok(['string', 'number', 'boolean'].includes(typeof value), `details.${key}`);
      }
      const stats = twin.disk.stats();
      assert.ok(Number.isInteger(stats.residentMetadataBytes) && stats.residentMetadataBytes >= 0);
      for (const [key, value] of Object.entries(stats)) assert.ok(Number.isFinite(value), `stats.${key}`);
    },
  },
  {
    name: 'extents cover the disk without gaps, and what is called zero reads as zeros',
    async run(lab) {
      const twin = await lab.twin({ strides: 8 });
      await twin.write(lab.stride, 2 * lab.stride);
      await twin.write(5 * lab.stride + 100, 100);
      await twin.writeZeroes(2 * lab.stride, lab.stride);
      await twin.disk.flush();
      let end = 0;
      for await (const { offset, length, kind, depth } of twin.disk.extents()) {
        assert.equal(offset, end);
        assert.ok(length > 0);
        assert.equal(depth, 0);
        const bytes = twin.model.read(offset, length);
        if (kind === 'zero')
          assert.ok(
            bytes.every((byte) => byte === 0),
            `zeros at ${offset}+${length}`,
          );
        end += length;
      }
      assert.equal(end, twin.size);
    },
  },
  {
    name: 'check of a new and of a full image is clean, and says what is allocated',
    async run(lab) {
      const twin = await lab.twin();
      await lab.assertClean(twin.disk);
      await twin.fill();
      const report = await lab.assertClean(twin.disk);
      assert.ok(report.allocatedBytes >= twin.size, `allocatedBytes is ${report.allocatedBytes}`);
      assert.ok(report.imageEndBytes >= twin.size, `imageEndBytes is ${report.imageEndBytes}`);
      assert.equal(report.repaired, 0);
    },
  },
  {
    name: 'a repair that the driver has finds nothing to do; one that it has not is refused',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      for (const repair of ['leaks', 'all'] as const) {
        const call = () => twin.disk.check({ repair });
        if (lab.capabilities.repair.includes(repair)) assert.equal((await call()).repaired, 0);
        else await failsWith('ERR_UNSUPPORTED', `repair ${repair}`, call);
      }
    },
  },
];

export const lifecycle: ScenarioGroup = { name: 'lifecycle', scenarios };
