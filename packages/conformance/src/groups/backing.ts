import assert from 'node:assert/strict';
import { dirname } from 'node:path';
import { checkOptions, createDisk, openDisk, type Storage } from '@cowlab/core';
import { assertSameBytes, failsWith } from '../expect.ts';
import { mainFile, type Lab } from '../lab.ts';
import { baseFile, makeBase, overlay } from '../overlay.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import { TraceFolder } from '../trace-folder.ts';
import { contentsOf } from '../twin.ts';

async function withoutChangeOfBase(lab: Lab, act: () => Promise<void>): Promise<void> {
  const before = (await lab.files()).get(baseFile) ?? new Uint8Array(0);
  await act();
  assertSameBytes((await lab.files()).get(baseFile) ?? new Uint8Array(0), before, 'the file of the backing');
}

const reading: readonly Scenario[] = [
  {
    name: 'an image over a backing shows its bytes, and its size when none is given',
    async run(lab) {
      const initial = await makeBase(lab);
      await lab.create({ file: 'sized.img', backing: { file: baseFile, format: lab.driver.name } });
      const sized = await lab.open({ file: 'sized.img' });
      assert.equal(sized.size, initial.length);
      const info = await sized.info();
      assert.equal(info.backing?.file, baseFile);
      const twin = await lab.twin({ backing: { file: baseFile, format: lab.driver.name }, initial });
      await twin.verify('when new');
    },
  },
  {
    name: 'writes, whole and partial, copy what they need and leave the backing as it was',
    async run(lab) {
      const twin = await overlay(lab);
      await withoutChangeOfBase(lab, async () => {
        await twin.write(lab.stride, lab.stride);
        await twin.write(10, 1);
        await twin.write(2 * lab.stride + 200, 200);
        await twin.write(4 * lab.stride - 2000, 3000);
        await twin.write(5 * lab.stride + 511, 2);
        await twin.verify('after writes');
        await twin.reopen();
        await twin.verify('after reopening');
      });
    },
  },
  {
    name: 'zeroes and discards hide the backing',
    async run(lab) {
      const twin = await overlay(lab);
      await withoutChangeOfBase(lab, async () => {
        await twin.writeZeroes(0, lab.stride);
        await twin.discard(lab.stride, lab.stride);
        await twin.writeZeroes(4 * lab.stride + 100, 1000);
        await twin.verify('after zeroes and discards');
        await twin.write(100, 100);
        await twin.reopen();
        await twin.discard(0, twin.size);
        await twin.verify('after a discard of everything');
      });
    },
  },
  {
    name: 'a backing shorter than its image ends in zeros',
    async run(lab) {
      const twin = await overlay(lab, 8, 5);
      await twin.verify('when new');
      await twin.write(5 * lab.stride - 10, 20);
      await twin.write(6 * lab.stride + 5, 5);
      await twin.readAndCompare(4 * lab.stride, 3 * lab.stride);
      await twin.verify('after writes at the edge');
      await twin.writeZeroes(4 * lab.stride + 1, 2 * lab.stride);
    },
  },
  {
    name: 'a chain of five shows the topmost bytes',
    async run(lab) {
      let below = await makeBase(lab);
      let file = baseFile;
      for (let level = 1; level <= 4; level++) {
        const backing = { file, format: lab.driver.name };
        file = `level${level}.img`;
        const twin = await lab.twin({ file, backing, initial: below });
        await twin.write((level * lab.stride) / 2, lab.stride);
        await twin.verify(`at level ${level}`);
        await twin.disk.close();
        lab.release(twin);
        below = twin.model.bytes.slice();
      }
      const top = await lab.twin({ backing: { file, format: lab.driver.name }, initial: below });
      await top.verify('at the top');
    },
  },
  {
    name: 'snapshots of an image over a backing',
    when: hasSnapshots,
    async run(lab) {
      const twin = await overlay(lab);
      await twin.createSnapshot('untouched');
      await twin.write(lab.stride - 5, 10);
      await twin.createSnapshot('touched');
      await twin.discard(0, 3 * lab.stride);
      await twin.verifySnapshots();
      await twin.applySnapshot('untouched');
      await twin.verify('after apply');
      await twin.deleteSnapshot('touched');
      await twin.reopen();
      await twin.verifySnapshots();
    },
  },
];

const refusing: readonly Scenario[] = [
  {
    name: 'a backing outside the folder is denied, unless it is allowed',
    async run(lab) {
      const elsewhere = await lab.nameElsewhere();
      const base = await lab.twin({ file: elsewhere });
      await base.disk.close();
      lab.release(base);
      const backing = { file: elsewhere, format: lab.driver.name };
      await failsWith('ERR_BACKING_DENIED', 'create', () => lab.create({ backing }));
      const { driver, drivers, options } = lab;
      const gate = { allow: [dirname(elsewhere)] };
      const request = { driver, drivers, options, backing, size: base.size, gate };
      await createDisk({ folder: lab.folder, file: mainFile }, request);
      await failsWith('ERR_BACKING_DENIED', 'open', () => lab.open());
    },
  },
  {
    name: 'a backing that is missing is named as missing',
    async run(lab) {
      const twin = await overlay(lab);
      await twin.disk.close();
      lab.release(twin);
      await lab.folder.remove(baseFile);
      await failsWith('ERR_BACKING_MISSING', 'open', () => lab.open());
      const backing = { file: 'none.img', format: lab.driver.name };
      await failsWith('ERR_BACKING_MISSING', 'create', () => lab.create({ file: 'new.img', backing }));
      assert.equal(await lab.folder.exists('new.img'), false, 'a refused create leaves no file');
    },
  },
  {
    name: 'a chain that comes back to itself is refused',
    async run(lab) {
      const format = lab.driver.name;
      await lab.create({ file: 'a.img' });
      await lab.create({ file: 'b.img', backing: { file: 'a.img', format } });
      await lab.create({ file: 'c.img', backing: { file: 'b.img', format } });
      await lab.folder.rename('c.img', 'a.img');
      await failsWith('ERR_BACKING_CYCLE', 'open', () => lab.open({ file: 'a.img' }));
      await failsWith('ERR_BACKING_CYCLE', 'open', () => lab.open({ file: 'b.img' }));
    },
  },
];

/** A chain of `links` images over `link0.img`, made by the driver alone: core would open the whole chain for each. */
async function makeChain(lab: Lab, links: number): Promise<void> {
  const { driver, folder } = lab;
  const options = checkOptions(driver.options, lab.options);
  await lab.create({ file: 'link0.img' });
  for (let link = 1; link <= links; link++) {
    const file = `link${link}.img`;
    const backing = { file: `link${link - 1}.img`, format: driver.name };
    await (await folder.create(file)).close();
    const createPart = (name: string): Promise<Storage> => folder.create(name);
    await driver.create(folder, file, { size: lab.size(6), backing, options, createPart });
  }
}

const chains: readonly Scenario[] = [
  {
    name: 'a long chain with a link missing names it; one that is longer than allowed is refused',
    async run(lab) {
      // In the file system every link is an open file, of which there may not be enough.
      const links = lab.place === 'memory' ? 1000 : 100;
      await makeChain(lab, links);
      const { folder, drivers } = lab;
      const top = { folder, file: `link${links}.img` };
      const gate = { maxDepth: links - 10 };
      const format = lab.driver.name;
      await failsWith('ERR_BACKING_DEPTH', 'open', () => openDisk(top, { drivers, format, gate }));
      const disk = await lab.open({ file: top.file });
      assertSameBytes(await contentsOf(disk), new Uint8Array(disk.size), 'the top of the chain');
      await disk.close();
      await folder.remove('link11.img');
      const traced = new TraceFolder(folder);
      const error = await failsWith('ERR_BACKING_MISSING', 'open', () =>
        lab.open({ file: top.file, folder: traced }),
      );
      assert.equal(error.data.file, 'link12.img');
      assert.deepEqual(traced.openFiles, [], 'files that the refused open left open');
    },
  },
];

const absent: Scenario = {
  name: 'a format without backing files says so, and leaves no file',
  when: (capabilities) => !capabilities.backing,
  async run(lab) {
    await makeBase(lab);
    const backing = { file: baseFile, format: lab.driver.name };
    await failsWith('ERR_UNSUPPORTED', 'create', () => lab.create({ backing }));
    assert.deepEqual(await lab.folder.exists(mainFile), false);
  },
};

const present = [...reading, ...refusing, ...chains].map(
  (scenario): Scenario => ({
    ...scenario,
    when: (capabilities) => capabilities.backing && (scenario.when?.(capabilities) ?? true),
  }),
);

export const backing: ScenarioGroup = { name: 'backing', scenarios: [...present, absent] };
