import assert from 'node:assert/strict';
import { assertSameBytes, failsWithRangeError } from '../expect.ts';
import type { Lab } from '../lab.ts';
import { pattern } from '../random.ts';
import type { Scenario, ScenarioGroup } from '../subject.ts';

/** Ranges that touch every kind of edge: of sectors, of pages, of units, of the disk. */
export function edgeRanges(lab: Lab, size: number): [offset: number, length: number][] {
  const { stride } = lab;
  return [
    [0, 1],
    [1, 511],
    [511, 2],
    [513, 1024],
    [stride - 1, 1],
    [stride - 1, 2],
    [stride - 512, 1024],
    [stride, 512],
    [stride + 7, stride],
    [2 * stride - 100, 2 * stride + 200],
    [5 * stride - 4096, 4096],
    [size - 513, 513],
    [size - 1, 1],
  ];
}

const scenarios: readonly Scenario[] = [
  {
    name: 'a new disk has the size it was made with, and reads as zeros',
    async run(lab) {
      const twin = await lab.twin();
      assert.equal(twin.disk.size, lab.size(6));
      assert.equal(twin.disk.format, lab.driver.name);
      await twin.verify('when new');
    },
  },
  {
    name: 'aligned writes read back',
    async run(lab) {
      const twin = await lab.twin();
      for (const index of [0, 2, 3, 5, 0]) await twin.write(index * lab.stride, lab.stride);
      await twin.readAndCompare(lab.stride, 3 * lab.stride);
    },
  },
  {
    name: 'unaligned writes on an empty disk leave zeros around them',
    async run(lab) {
      const twin = await lab.twin();
      for (const [offset, length] of edgeRanges(lab, twin.size)) {
        await twin.write(offset, length);
        await twin.verify(`after a write of ${length} bytes at ${offset}`);
      }
    },
  },
  {
    name: 'unaligned writes on a full disk leave the bytes around them',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      for (const [offset, length] of edgeRanges(lab, twin.size)) {
        await twin.write(offset, length);
        await twin.verify(`after a write of ${length} bytes at ${offset}`);
      }
    },
  },
  {
    name: 'one write and one read cover the whole disk, empty, partly and fully written',
    async run(lab) {
      const twin = await lab.twin();
      await twin.write(lab.stride + 100, 3 * lab.stride);
      for (let round = 0; round < 2; round++) {
        await twin.fill();
        await twin.verify('after writing all of it');
      }
    },
  },
  {
    name: 'reads of any alignment give the bytes of their range and touch nothing beside the target',
    async run(lab) {
      const twin = await lab.twin();
      await twin.write(lab.stride - 700, 2 * lab.stride);
      await twin.write(4 * lab.stride, 1000);
      for (const [offset, length] of edgeRanges(lab, twin.size)) {
        const guarded = new Uint8Array(length + 32).fill(0xa5);
        await twin.disk.read(offset, guarded.subarray(16, 16 + length));
        assertSameBytes(guarded.slice(16, 16 + length), twin.model.read(offset, length), `read at ${offset}`);
        const beside = [...guarded.subarray(0, 16), ...guarded.subarray(16 + length)];
        assert.ok(
          beside.every((byte) => byte === 0xa5),
          `a read at ${offset} wrote beside its target`,
        );
      }
    },
  },
  {
    name: 'the buffer of a write belongs to the caller again when the write is done',
    async run(lab) {
      const twin = await lab.twin();
      const buffer = pattern(1, 1500);
      await twin.disk.write(lab.stride - 300, buffer);
      twin.model.write(lab.stride - 300, buffer);
      buffer.fill(0);
      await twin.verify('after the buffer was reused');
    },
  },
  {
    name: 'zero bytes can be read and written anywhere up to the end',
    async run(lab) {
      const twin = await lab.twin();
      const nothing = new Uint8Array(0);
      for (const offset of [0, 1, lab.stride, twin.size]) {
        await twin.disk.read(offset, nothing);
        await twin.disk.write(offset, nothing);
      }
      await failsWithRangeError('an empty read past the end', () => twin.disk.read(twin.size + 1, nothing));
      await failsWithRangeError('an empty write past the end', () => twin.disk.write(twin.size + 1, nothing));
    },
  },
  {
    name: 'reads and writes across the end, or at no offset at all, are range errors and change nothing',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      const { disk, size } = twin;
      const bytes = pattern(99, 2);
      for (const offset of [size - 1, size, size + lab.stride, 2 ** 53, -1, 0.5, Number.NaN]) {
        const target = new Uint8Array(2);
        await failsWithRangeError(`a read at ${offset}`, () => disk.read(offset, target));
        await failsWithRangeError(`a write at ${offset}`, () => disk.write(offset, bytes));
      }
      await twin.verify('after refused writes');
    },
  },
  {
    name: 'many small writes all over the disk end up where they belong',
    async run(lab) {
      const twin = await lab.twin({ strides: 12 });
      for (let index = 0; index < 200; index++) {
        const length = 1 + lab.random.below(3000);
        await twin.write(lab.random.below(twin.size - length), length);
      }
      await twin.verify('after many small writes');
    },
  },
];

export const readsAndWrites: ScenarioGroup = { name: 'reads and writes', scenarios };
