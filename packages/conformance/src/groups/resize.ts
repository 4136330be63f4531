import assert from 'node:assert/strict';
import { failsWith, failsWithRangeError } from '../expect.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';

const scenarios: readonly Scenario[] = [
  {
    name: 'a disk that grows has zeros at its end, and can be written there',
    when: ({ resize: kind }) => kind !== 'none',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      for (const size of [lab.size(7), 40 * lab.stride]) {
        await twin.resize(size);
        assert.equal(twin.disk.size, size);
        await twin.verify(`after growing to ${size}`);
        await twin.write(size - 700, 700);
      }
      await twin.reopen();
      assert.equal(twin.disk.size, 40 * lab.stride);
      await twin.verify('after reopening');
    },
  },
  {
    name: 'a disk grows while snapshots keep their size, or says that it does not',
    when: (capabilities) => capabilities.resize !== 'none' && hasSnapshots(capabilities),
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      await twin.createSnapshot('small');
      const size = lab.size(9);
      try {
        await twin.disk.resize(size);
      } catch {
        await failsWith('ERR_UNSUPPORTED', 'resize', () => twin.disk.resize(size));
        await twin.verify('after a refused resize');
        return;
      }
      twin.model.resize(size);
      await twin.write(size - 5000, 5000);
      await twin.verifySnapshots();
      await twin.reopen();
      await twin.verify('after reopening');
      assert.equal((await twin.disk.snapshots.list())[0]?.size, lab.size(6));
      await twin.applySnapshot('small');
      assert.equal(twin.disk.size, lab.size(6));
      await twin.verify('after apply');
    },
  },
  {
    name: 'a disk that shrinks and grows again has lost what was past its end',
    when: ({ resize: kind }) => kind === 'both',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      for (const size of [lab.size(3), lab.size(2), lab.size(6), lab.stride, lab.size(4)]) {
        await twin.resize(size);
        await twin.verify(`after a resize to ${size}`);
      }
      await twin.reopen();
      await twin.verify('after reopening');
    },
  },
  {
    name: 'sizes that cannot be are refused',
    when: ({ resize: kind }) => kind !== 'none',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      for (const size of [0, -1, 1.5, Number.NaN]) {
        await failsWithRangeError(`resize to ${size}`, () => twin.disk.resize(size));
      }
      const { sizeMultiple, maxSize } = lab.capabilities;
      if (sizeMultiple > 1) {
        await failsWith('ERR_INVALID_OPTION', 'resize', () => twin.disk.resize(twin.size + sizeMultiple - 1));
      }
      if (maxSize + sizeMultiple <= Number.MAX_SAFE_INTEGER) {
        await failsWith('ERR_INVALID_OPTION', 'resize', () => twin.disk.resize(maxSize + sizeMultiple));
      }
      await twin.verify('after refusals');
    },
  },
  {
    name: 'a format that cannot resize, or only grow, says so',
    when: ({ resize: kind }) => kind !== 'both',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      const sizes = lab.capabilities.resize === 'grow' ? [5] : [5, 7];
      for (const strides of sizes) {
        const size = strides * lab.stride;
        await failsWith('ERR_UNSUPPORTED', `resize to ${size}`, () => twin.disk.resize(size));
      }
      await twin.verify('after refusals');
    },
  },
];

export const resize: ScenarioGroup = { name: 'resize', scenarios };
