import assert from 'node:assert/strict';
import { DelayedFolder } from '../delayed-folder.ts';
import { failsWith, failsWithRangeError } from '../expect.ts';
import type { Lab } from '../lab.ts';
import { compressible, noise, pattern } from '../random.ts';
import { compresses, hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';

/* Units that are stored compressed read and behave like any others; they are only smaller. */

/** Bytes that can be made smaller, wherever they lie. */
const repetitive = (tag: number, length: number): Uint8Array => compressible(tag, length, length);

async function fileBytes(lab: Lab): Promise<number> {
  const files = await lab.files();
  return [...files.values()].reduce((sum, { length }) => sum + length, 0);
}

const scenarios: readonly Scenario[] = [
  {
    name: 'what is written compressed reads as it was, and says how much of it was',
    async run(lab) {
      const piece = Math.max(lab.stride, lab.subject.copyBytes ?? 0);
      const twin = await lab.twin({ size: 12 * piece + lab.size(0) });
      const { disk, size } = twin;
      assert.equal(disk.compression, 'optional');
      assert.equal(await disk.writeCompressed(0, new Uint8Array(0)), 0, 'of no bytes');
      const bytes = repetitive(1, 4 * piece);
      assert.equal(await disk.writeCompressed(piece, bytes), bytes.length, 'of bytes that shrink');
      twin.model.write(piece, bytes);
      const others = noise(2, 2 * piece);
      assert.equal(await disk.writeCompressed(6 * piece, others), 0, 'of bytes that do not');
      twin.model.write(6 * piece, others);
      const rest = size - 8 * piece;
      const part = await twin.writeCompressed(8 * piece, rest);
      assert.ok(part > 0 && part < rest, `${part} bytes of a mixture of ${rest}`);
      await twin.verify('after compressed writes');
      await twin.reopen();
      await twin.readAndCompare(piece - 100, 2 * piece + 700);
    },
  },
  {
    name: 'it takes less space than it would as it is',
    async run(lab) {
      const twin = await lab.twin({ strides: 64 });
      const bytes = repetitive(1, twin.size);
      await twin.disk.writeCompressed(0, bytes);
      twin.model.write(0, bytes);
      await twin.disk.flush();
      const compressed = await fileBytes(lab);
      await twin.fill();
      await twin.disk.flush();
      const plain = await fileBytes(lab);
      assert.ok(compressed < plain - twin.size / 2, `${compressed} bytes compressed, ${plain} plain`);
      assert.ok((await twin.disk.check()).corruptions === 0);
    },
  },
  {
    name: 'writes of any alignment, zeroes and discards replace it',
    async run(lab) {
      const twin = await lab.twin({ strides: 12 });
      await twin.writeCompressed(0, twin.size);
      await twin.write(100, 50);
      await twin.write(2 * lab.stride - 1, lab.stride + 2);
      await twin.writeZeroes(4 * lab.stride + 10, lab.stride);
      await twin.discard(6 * lab.stride, 2 * lab.stride);
      await twin.verify('after it was changed');
      await twin.writeCompressed(5 * lab.stride, 3 * lab.stride);
      await twin.write(5 * lab.stride + 7, 1);
      await twin.verify('after it was compressed again');
      await lab.assertClean(twin.disk);
    },
  },
  {
    name: 'space is used again, however often everything is written anew',
    async run(lab) {
      const twin = await lab.twin({ strides: 10 });
      let most = 0;
      for (let round = 0; round < 12; round += 1) {
        await twin.writeCompressed(0, twin.size);
        await twin.write(lab.random.below(twin.size - 600), 600);
        await twin.disk.flush();
        if (round === 3) most = await fileBytes(lab);
      }
      const bytes = await fileBytes(lab);
      assert.ok(bytes <= most + 2 * twin.size, `the file grew from ${most} to ${bytes} bytes`);
      await lab.assertClean(twin.disk);
    },
  },
  {
    name: 'snapshots keep it, and the disk goes on beside it',
    when: hasSnapshots,
    async run(lab) {
      const twin = await lab.twin({ strides: 12 });
      await twin.writeCompressed(0, 6 * lab.stride);
      await twin.createSnapshot('first');
      await twin.writeCompressed(2 * lab.stride, 6 * lab.stride);
      await twin.write(lab.stride + 5, 700);
      await twin.createSnapshot('second');
      await twin.discard(0, 4 * lab.stride);
      await twin.writeCompressed(8 * lab.stride, 2 * lab.stride);
      await twin.verifySnapshots();
      await twin.deleteSnapshot('first');
      await lab.assertClean(twin.disk);
      await twin.writeCompressed(0, 3 * lab.stride);
      await twin.applySnapshot('second');
      await twin.verify('after apply');
      await twin.writeCompressed(3 * lab.stride, 3 * lab.stride);
      await twin.verifySnapshots();
    },
  },
  {
    name: 'requests beside compressed writes are neither lost nor disturbed',
    async run(lab) {
      const twin = await lab.twin({ strides: 16, folder: new DelayedFolder(lab.folder, lab.seed) });
      const { disk, model } = twin;
      const requests: unknown[] = [];
      for (let step = 0; step < 40; step += 1) {
        const offset = lab.random.below(14) * lab.stride;
        const bytes = compressible(step, 2 * lab.stride, disk.unitBytes);
        // Overlapping ones take effect in the order of asking; the model has them in that order.
        if (step % 4 === 0) {
          requests.push(disk.write(offset + 33, bytes));
          model.write(offset + 33, bytes);
        } else if (step % 7 === 0) requests.push(disk.flush());
        else {
          requests.push(disk.writeCompressed(offset, bytes));
          model.write(offset, bytes);
        }
        if (step % 5 === 0) await Promise.all(requests.splice(0));
      }
      await Promise.all(requests);
      await twin.verify('after all of them');
      await lab.assertClean(twin.disk);
    },
  },
  {
    name: 'parts of units, ranges outside the disk, and disks that are read-only or closed are refused',
    async run(lab) {
      const twin = await lab.twin({ strides: 6 });
      await twin.writeCompressed(0, 2 * lab.stride);
      const { disk, size } = twin;
      const unit = disk.unitBytes;
      const ranges = [
        [1, unit],
        [0, unit - 1],
        [unit, unit + 1],
        [size - (size % unit || unit) - 1, (size % unit || unit) + 1],
        [Math.ceil(size / unit) * unit, unit],
        [-unit, unit],
      ] as const;
      for (const [offset, length] of ranges) {
        const what = `${length} bytes at ${offset}`;
        await failsWithRangeError(what, () => disk.writeCompressed(offset, pattern(3, length)));
      }
      await twin.verify('after what was refused');
      await disk.close();
      await failsWith('ERR_CLOSED', 'a closed disk', () => disk.writeCompressed(0, pattern(3, unit)));
      twin.disk = await lab.open({ readOnly: true });
      await failsWith('ERR_READ_ONLY', 'a read-only disk', () =>
        twin.disk.writeCompressed(0, pattern(3, unit)),
      );
    },
  },
];

const absent: Scenario = {
  name: 'an image that stores nothing compressed says so, and changes nothing',
  when: (capabilities) => !compresses(capabilities),
  async run(lab) {
    const twin = await lab.twin();
    assert.equal(twin.disk.compression, 'none');
    await failsWith('ERR_UNSUPPORTED', 'writeCompressed', () =>
      twin.disk.writeCompressed(0, new Uint8Array(twin.disk.unitBytes)),
    );
  },
};

const present = scenarios.map(
  (scenario): Scenario => ({
    ...scenario,
    when: (capabilities) => compresses(capabilities) && (scenario.when?.(capabilities) ?? true),
  }),
);

export const compression: ScenarioGroup = { name: 'compressed writes', scenarios: [...present, absent] };
