import assert from 'node:assert/strict';
import { failsWith } from '../expect.ts';
import { type Lab, mainFile, type OpenRequest } from '../lab.ts';
import { baseFile, makeBase, overlay } from '../overlay.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import { TraceFolder } from '../trace-folder.ts';
import { contentsOf } from '../twin.ts';

/*
 * Who may have an image open beside whom:
 *
 *                  a writer    a reader    with forceShare
 *     a writer     refused     refused     both go on
 *     a reader     refused     both go on  both go on
 *
 * Every file under an image counts as read. Two openings in one process meet as two processes do; that these meet
 * each other, and QEMU, is tested where there are programs to start (packages/cli).
 */

/** The open is refused for the lock of `file`, and leaves nothing open. */
async function isLocked(lab: Lab, what: string, request: OpenRequest, file = mainFile): Promise<void> {
  const folder = new TraceFolder(lab.folder);
  const { data } = await failsWith('ERR_LOCKED', what, () => lab.open({ ...request, folder }));
  assert.equal(data.file, file, `${what}: the file that is named`);
  assert.deepEqual(folder.openFiles, [], `${what}: what the refused open has left open`);
}

async function opens(lab: Lab, request: OpenRequest): Promise<void> {
  await (await lab.open(request)).close();
}

const alone: readonly Scenario[] = [
  {
    name: 'beside a writer there is neither a second one nor a reader, and the first goes on',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      await isLocked(lab, 'a second writer', {});
      await isLocked(lab, 'a reader', { readOnly: true });
      await twin.write(lab.stride, 1000);
      await twin.disk.flush();
      await isLocked(lab, 'a second writer, later', {});
      await twin.disk.close();
      await opens(lab, {});
      await opens(lab, { readOnly: true });
      await twin.reopen();
    },
  },
  {
    name: 'readers share an image, and a writer waits for the last of them',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      await twin.disk.close();
      const readers = [await lab.open({ readOnly: true }), await lab.open({ readOnly: true })];
      for (const reader of readers) {
        await isLocked(lab, 'a writer beside readers', {});
        assert.deepEqual(await contentsOf(reader), twin.model.bytes);
        await reader.close();
      }
      await twin.reopen();
    },
  },
  {
    name: 'forceShare reads beside a writer, keeps nobody away, and never writes',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      await twin.disk.flush();
      const reader = await lab.open({ readOnly: true, forceShare: true });
      assert.deepEqual(await contentsOf(reader), twin.model.bytes);
      await twin.reopen();
      await reader.close();
      await failsWith('ERR_INVALID_OPTION', 'open', () => lab.open({ forceShare: true }));
    },
  },
  {
    name: 'an open that fails leaves no lock',
    async run(lab) {
      const twin = await lab.twin();
      await twin.disk.close();
      const whole = (await lab.files()).get(mainFile) ?? new Uint8Array(0);
      await lab.replaceFile(mainFile, new Uint8Array(whole.length).fill(0x5a));
      for (const readOnly of [false, true]) {
        if (lab.hasMagic) await assert.rejects(lab.open({ readOnly }));
      }
      await lab.replaceFile(mainFile, whole);
      await twin.reopen();
    },
  },
];

const withSnapshots: readonly Scenario[] = [
  {
    name: 'a lock outlives every change of snapshots, and those that are open as disks',
    when: hasSnapshots,
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      const refused = async (after: string): Promise<void> => {
        await isLocked(lab, `a writer after ${after}`, {});
        await isLocked(lab, `a reader after ${after}`, { readOnly: true });
      };
      for (const name of ['one', 'two', 'three']) {
        await twin.createSnapshot(name);
        await twin.write(0, lab.stride);
      }
      await refused('three creates');
      const opened = await twin.disk.snapshots.open('one');
      await refused('a snapshot was opened');
      await opened.close();
      await refused('a snapshot was closed');
      await twin.deleteSnapshot('two');
      await refused('a delete');
      await twin.applySnapshot('one');
      await refused('an apply');
      await twin.write(0, 700);
      await twin.reopen();
      await refused('opening it again');
    },
  },
  {
    name: 'readers share an image with snapshots, and open these beside each other',
    when: hasSnapshots,
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      await twin.createSnapshot('one');
      await twin.write(0, lab.stride);
      await twin.disk.close();
      const readers = [await lab.open({ readOnly: true }), await lab.open({ readOnly: true })];
      for (const reader of readers) await twin.verifySnapshots(reader);
      await isLocked(lab, 'a writer', {});
      for (const reader of readers) await reader.close();
      await twin.reopen();
    },
  },
];

const overBackings: readonly Scenario[] = [
  {
    name: 'what is under an open image can be read, not written',
    when: ({ backing }) => backing,
    async run(lab) {
      const twin = await overlay(lab);
      await isLocked(lab, 'a writer of the backing', { file: baseFile }, baseFile);
      await opens(lab, { file: baseFile, readOnly: true });
      await lab.create({ file: 'second.img', backing: { file: baseFile, format: lab.driver.name } });
      await opens(lab, { file: 'second.img' });
      await twin.disk.close();
      await opens(lab, { file: baseFile });
      await twin.reopen();
    },
  },
  {
    name: 'over a backing that somebody writes an image is made, but opened with forceShare only',
    when: ({ backing }) => backing,
    async run(lab) {
      await makeBase(lab);
      const writer = await lab.open({ file: baseFile });
      await lab.create({ file: mainFile, backing: { file: baseFile, format: lab.driver.name } });
      await isLocked(lab, 'the image over it', {}, baseFile);
      await isLocked(lab, 'a reader of the image over it', { readOnly: true }, baseFile);
      await opens(lab, { readOnly: true, forceShare: true });
      await writer.close();
      await opens(lab, {});
    },
  },
];

export const oneWriter: ScenarioGroup = {
  name: 'one writer',
  scenarios: [...alone, ...withSnapshots, ...overBackings],
};
