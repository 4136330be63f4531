import { failsWithRangeError } from '../expect.ts';
import type { Lab } from '../lab.ts';
import type { Scenario, ScenarioGroup } from '../subject.ts';
import type { Twin } from '../twin.ts';
import { edgeRanges } from './reads-and-writes.ts';

type Unmapping = 'writeZeroes' | 'discard';

async function eachEdge(lab: Lab, call: Unmapping): Promise<void> {
  const twin = await lab.twin();
  for (const [offset, length] of edgeRanges(lab, twin.size)) {
    await twin.fill();
    await twin[call](offset, length);
    await twin.verify(`after ${call} of ${length} bytes at ${offset}`);
  }
}

/** Data in every other stride, so that the ranges meet both kinds. */
async function stripes(lab: Lab): Promise<Twin> {
  const twin = await lab.twin({ strides: 8 });
  for (let index = 0; index < 8; index += 2) await twin.write(index * lab.stride, lab.stride);
  return twin;
}

function both(call: Unmapping): Scenario[] {
  return [
    {
      name: `${call} of one unit, of several, and of the whole disk`,
      async run(lab) {
        const twin = await lab.twin();
        await twin.fill();
        await twin[call](lab.stride, lab.stride);
        await twin.verify(`after ${call} of one unit`);
        await twin[call](3 * lab.stride, 2 * lab.stride);
        await twin.verify(`after ${call} of two units`);
        await twin[call](0, twin.size);
        await twin.verify(`after ${call} of everything`);
        await twin.fill();
      },
    },
    {
      name: `${call} of ranges that cut units`,
      run: (lab) => eachEdge(lab, call),
    },
    {
      name: `${call} where nothing was written, and twice`,
      async run(lab) {
        const twin = await stripes(lab);
        await twin[call](lab.stride, lab.stride);
        await twin[call](100, 7 * lab.stride);
        await twin[call](100, 7 * lab.stride);
        await twin.verify(`after ${call} across holes`);
        await twin.reopen();
        await twin.verify('after reopening');
      },
    },
    {
      name: `${call}, then a write into a part of the unit: the rest is zero`,
      async run(lab) {
        const twin = await lab.twin();
        await twin.fill();
        await twin[call](2 * lab.stride, 2 * lab.stride);
        await twin.write(2 * lab.stride + 1000, 512);
        await twin.verify('after the write');
        await twin.reopen();
        await twin.verify('after reopening');
      },
    },
    {
      name: `${call} up to the end of the disk takes the last unit, whole or not`,
      async run(lab) {
        const twin = await lab.twin();
        await twin.fill();
        await twin[call](5 * lab.stride, twin.size - 5 * lab.stride);
        await twin.verify(`after ${call} of the end`);
      },
    },
    {
      name: `${call} across the end is a range error, of nothing is nothing`,
      async run(lab) {
        const twin = await lab.twin();
        await twin.fill();
        const { disk, size } = twin;
        for (const offset of [0, 1, lab.stride, size]) await disk[call](offset, 0);
        for (const offset of [size - 1, size + 1, -1, Number.NaN]) {
          await failsWithRangeError(`${call} at ${offset}`, () => disk[call](offset, 2));
        }
        await failsWithRangeError(`${call} of a negative length`, () => disk[call](0, -1));
        await twin.verify('after refused calls');
      },
    },
    {
      name: `${call} again and again does not use space up`,
      async run(lab) {
        const twin = await lab.twin();
        for (let round = 0; round < 8; round++) {
          await twin.fill();
          await twin[call](0, twin.size);
          if (round % 3 === 0) await twin.disk.flush();
        }
        await lab.assertClean(twin.disk);
      },
    },
  ];
}

export const zeroes: ScenarioGroup = { name: 'zeroes', scenarios: both('writeZeroes') };
export const discard: ScenarioGroup = { name: 'discard', scenarios: both('discard') };
