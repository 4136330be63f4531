import fs from 'node:fs';
import { hostname } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { FileFolder, type Storage } from '../src/index.ts';
import { scratchFolder } from './scratch.ts';

/* How locks of files are held: with the system's help, and in the folder that takes its place. */

const scratch = scratchFolder();
const onLinux = process.platform === 'linux';
let folder: FileFolder;

async function folderWith(native: 'on' | 'off'): Promise<FileFolder> {
  const directory = fs.mkdtempSync(path.join(scratch, 'locks-'));
  fs.writeFileSync(path.join(directory, 'image'), 'bytes');
  vi.resetModules();
  if (native === 'off') vi.stubEnv('COWLAB_NATIVE', 'off');
  const copy = await import('../src/file-folder.ts');
  vi.unstubAllEnvs();
  return new copy.FileFolder(directory);
}

const lockFolderOf = (of: FileFolder): string =>
  path.join(of.location, `.cowlab-lock-${fs.statSync(path.join(of.location, 'image')).ino}`);

const exclusive = (): Promise<Storage> => folder.open('image', { readOnly: false, lock: 'exclusive' });

describe.skipIf(!onLinux).each(['on', 'off'] as const)('native calls %s:', (native) => {
  it('a refused open leaves no descriptor open, and names the process that is in the way', async () => {
    folder = await folderWith(native);
    const holder = await exclusive();
    const before = fs.readdirSync('/proc/self/fd').length;
    for (let count = 0; count < 5; count += 1) {
      await expect(exclusive()).rejects.toMatchObject({
        code: 'ERR_LOCKED',
        message: expect.stringMatching(/^image: locked: this process has it open for writing/) as string,
        data: { file: 'image', value: 'exclusive', pid: process.pid },
      });
    }
    expect(fs.readdirSync('/proc/self/fd').length).toBe(before);
    await holder.close();
    expect(fs.readdirSync(folder.location)).toEqual(['image']);
  });
});

describe('without native calls', () => {
  beforeEach(async () => {
    folder = await folderWith('off');
    fs.mkdirSync(lockFolderOf(folder));
  });
  afterEach(() => fs.rmSync(folder.location, { recursive: true }));

  const enter = (owner: string): string => {
    const file = path.join(lockFolderOf(folder), owner);
    fs.writeFileSync(file, '');
    return file;
  };
  const host = encodeURIComponent(hostname());

  it('an owner whose process is gone is in nobody’s way, and is removed', async () => {
    const file = enter(`exclusive.${2 ** 31 - 2}.0.0-1.${host}`);
    const storage = await exclusive();
    expect(fs.existsSync(file)).toBe(false);
    await storage.close();
    expect(fs.readdirSync(folder.location)).toEqual(['image']);
  });

  it.skipIf(!onLinux)('an owner whose number another process has now is gone as well', async () => {
    const file = enter(`exclusive.${process.pid}.00000000-1.0-1.${host}`);
    await (await exclusive()).close();
    expect(fs.existsSync(file)).toBe(false);
  });

  it('an owner on another machine counts as alive, and the message says what to remove', async () => {
    const file = enter(`shared.17.0.0-1.not.${host}`);
    await expect(exclusive()).rejects.toMatchObject({
      code: 'ERR_LOCKED',
      message: `image: locked: process 17 (on not.${host}) has it open for reading (${file})`,
      data: { lockFile: file },
    });
    expect(fs.existsSync(file)).toBe(true);
  });
});
