import fs from 'node:fs';
import path from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { FileFolder, type GatePolicy, MemoryFolder, openDisk } from '../src/index.ts';
import { paged, writePaged } from './paged-driver.ts';
import { scratchFolder } from './scratch.ts';

/*
 * What an image may name as its backing file. `home` is the image's folder, `beside` is next to it:
 *   home/top, home/base, home/sub/inner    beside/secret
 */

const scratch = scratchFolder();
let home: string;
let beside: string;
let runs = 0;

beforeEach(async () => {
  const run = path.join(scratch, String(runs++));
  home = path.join(run, 'home');
  beside = path.join(run, 'beside');
  fs.mkdirSync(path.join(home, 'sub'), { recursive: true });
  fs.mkdirSync(beside);
  await writePaged(new FileFolder(home), 'base');
  await writePaged(new FileFolder(path.join(home, 'sub')), 'inner', '../base');
  await writePaged(new FileFolder(beside), 'secret');
});

/** The error code of opening an image that names `backing`, or how deep its chain is. */
async function outcome(backing: string, gate: GatePolicy = {}): Promise<unknown> {
  await writePaged(new FileFolder(home), 'top', backing);
  try {
    const disk = await openDisk(path.join(home, 'top'), { drivers: [paged], gate, readOnly: true });
    const { depth } = await disk.resolve(0, 1);
    await disk.close();
    return depth;
  } catch (error) {
    return (error as { code?: unknown }).code ?? error;
  }
}

describe('the backing gate', () => {
  it.each([
    ['a file beside the image', 'base', 1],
    ['a file in a subfolder, which goes on from there', 'sub/inner', 2],
    ['a way out and in again', '../home/base', 1],
    ['the prefix file:', 'file:base', 1],
  ])('lets through %s', async (_, backing, depth) => {
    expect(await outcome(backing)).toBe(depth);
  });

  it.each([
    ['a way out of the folder', '../beside/secret', 'ERR_BACKING_DENIED'],
    ['a way out behind file:', 'file:../beside/secret', 'ERR_BACKING_DENIED'],
    ['an absolute path elsewhere', '/etc/passwd', 'ERR_BACKING_DENIED'],
    ['the folder itself', '.', 'ERR_BACKING_DENIED'],
    ['a folder whose name begins like ours', '../home-of-others/base', 'ERR_BACKING_DENIED'],
    ['a file that is not there', 'gone', 'ERR_BACKING_MISSING'],
    ['a name with a zero byte', 'base\0', 'ERR_BACKING_MISSING'],
    ['the image itself', 'top', 'ERR_BACKING_CYCLE'],
    ['the image itself, written otherwise', 'sub/../top', 'ERR_BACKING_CYCLE'],
    ['a json: description', 'json:{"driver":"file","filename":"base"}', 'ERR_UNSUPPORTED'],
    ['a json: description behind file:', 'file:json:{}', 'ERR_UNSUPPORTED'],
    ['a network address', 'nbd://127.0.0.1/export', 'ERR_UNSUPPORTED'],
    ['a folder', 'sub', 'ERR_UNSUPPORTED'],
  ])('stops %s', async (_, backing, code) => {
    expect(await outcome(backing)).toBe(code);
  });

  it('lets an absolute path into the own folder through', async () => {
    expect(await outcome(path.join(home, 'base'))).toBe(1);
  });

  it('sees through symbolic links, both ways', async () => {
    fs.symlinkSync(path.join(beside, 'secret'), path.join(home, 'innocent'));
    fs.symlinkSync(home, path.join(beside, 'back'));
    expect(await outcome('innocent')).toBe('ERR_BACKING_DENIED');
    fs.rmSync(path.join(home, 'top'));
    expect(await outcome('../beside/back/base')).toBe(1);
  });

  it('lets files of allowed folders through, also when the folder is given by a link', async () => {
    expect(await outcome('../beside/secret', { allow: [beside] })).toBe(1);
    fs.rmSync(path.join(home, 'top'));
    const link = path.join(home, 'sub', 'link');
    fs.symlinkSync(beside, link);
    expect(await outcome('../beside/secret', { allow: [link] })).toBe(1);
  });

  it('takes the folder of the image that the caller named for its own, of that one alone', async () => {
    const folder = new FileFolder(path.join(home, 'sub'));
    await writePaged(new FileFolder(beside), 'top', 'secret');
    fs.symlinkSync(path.join(home, 'sub', 'lower'), path.join(beside, 'way-in'));
    const open = async (file: string): Promise<unknown> =>
      openDisk({ folder, file }, { drivers: [paged], readOnly: true }).then(
        (disk) => disk.close(),
        (error: unknown) => (error as { code?: unknown }).code,
      );
    expect(await open(path.join(beside, 'top'))).toBeUndefined();
    await writePaged(folder, 'upper', '../../beside/way-in');
    await writePaged(folder, 'lower', 'secret');
    expect(await open('upper')).toBe('ERR_BACKING_DENIED');
  });

  it('stops a cycle of many', async () => {
    const folder = new FileFolder(home);
    for (let index = 0; index < 5; index++)
      await writePaged(folder, `ring-${index}`, `ring-${(index + 1) % 5}`);
    expect(await outcome('ring-0')).toBe('ERR_BACKING_CYCLE');
  });

  it('counts the images of a chain', async () => {
    const folder = new FileFolder(home);
    for (let index = 0; index < 4; index++)
      await writePaged(folder, `${index}`, index === 3 ? '' : `${index + 1}`);
    expect(await outcome('0', { maxDepth: 5 })).toBe(4);
    fs.rmSync(path.join(home, 'top'));
    expect(await outcome('0', { maxDepth: 4 })).toBe('ERR_BACKING_DEPTH');
  });

  it('names the image, the field and the file, and closes what was open', async () => {
    await writePaged(new FileFolder(home), 'top', 'sub/inner');
    fs.rmSync(path.join(home, 'base'));
    const before = fs.readdirSync('/proc/self/fd').length;
    const opened = openDisk(path.join(home, 'top'), { drivers: [paged] });
    await expect(opened).rejects.toMatchObject({
      code: 'ERR_BACKING_MISSING',
      data: { file: 'sub/inner', field: 'backing name', value: '../base' },
    });
    expect(fs.readdirSync('/proc/self/fd')).toHaveLength(before);
  });

  it('lets an image open what it names again: only an image above it makes a cycle', async () => {
    const folder = new MemoryFolder();
    await writePaged(folder, 'base');
    await writePaged(folder, 'top', 'base');
    const twice = {
      ...paged,
      open: async (...[inFolder, file, context]: Parameters<typeof paged.open>) => {
        if (file === 'top') await (await context.openBacking({ file: 'base' }, 'first look')).close();
        return paged.open(inFolder, file, context);
      },
    };
    const disk = await openDisk({ folder, file: 'top' }, { drivers: [twice] });
    expect(await disk.resolve(0, 1)).toMatchObject({ depth: 1 });
    await disk.close();
  });

  it('asks who a file is once for each of a chain, and where the folders are once for all of them', async () => {
    const asked: string[] = [];
    class Asked extends MemoryFolder {
      override identify(name: string): Promise<string> {
        asked.push(name);
        return super.identify(name);
      }
    }
    const folder = new Asked();
    for (let index = 0; index < 50; index++)
      await writePaged(folder, `${index}`, index === 49 ? '' : `${index + 1}`);
    asked.length = 0;
    const gate = { allow: ['/elsewhere'] };
    const disk = await openDisk({ folder, file: '0' }, { drivers: [paged], gate, readOnly: true });
    const files = Array.from({ length: 50 }, (_, index) => `${index}`);
    expect(asked.toSorted()).toEqual([...files, '.', '/elsewhere'].toSorted());
    await disk.close();
  });

  it('keeps apart what two images of one file have named: only the way down counts', async () => {
    const folder = new MemoryFolder();
    for (const [name, backing] of [
      ['left', 'base'],
      ['right', 'left'],
      ['base', ''],
    ] as const) {
      await writePaged(folder, name, backing);
    }
    await writePaged(folder, 'top', 'right');
    const looksAround = {
      ...paged,
      open: async (...[inFolder, file, context]: Parameters<typeof paged.open>) => {
        // Down one way first, which ends in files that the other way leads to as well, in another order.
        if (file === 'top') await (await context.openBacking({ file: 'left' }, 'first look')).close();
        return paged.open(inFolder, file, context);
      },
    };
    const disk = await openDisk({ folder, file: 'top' }, { drivers: [looksAround] });
    expect(await disk.resolve(0, 1)).toMatchObject({ depth: 3 });
    await disk.close();
  });

  it('keeps names in a memory folder apart from paths of the file system', async () => {
    const folder = new MemoryFolder();
    await writePaged(folder, 'top', '/etc/passwd');
    const opened = openDisk({ folder, file: 'top' }, { drivers: [paged] });
    await expect(opened).rejects.toMatchObject({ code: 'ERR_BACKING_DENIED' });
  });
});
