import {
  type BlockDriver,
  CowlabError,
  type DriverImage,
  type Extent,
  entryFields,
  type FoundStructure,
  type OpenContext,
  type StorageFolder,
  viewOf,
} from '@cowlab/core';
import { expect, it } from 'vitest';
import { MutantRun } from '../src/index.ts';
import { mapping } from './mapping-driver.ts';

/*
 * A run over damaged images that never fails proves nothing. Each driver here is one that passes, with one defect planted
 * that only a damaged image brings out: when some field of the header is large.
 */

const seed = 20_261_124;
const mutants = 150;
const headerBytes = 64;

function structures(file: string, bytes: Uint8Array): FoundStructure[] {
  if (file !== 'disk.img' || bytes.length < headerBytes) return [];
  const fields = entryFields(headerBytes / 4, 4);
  return [{ kind: 'header', file, offset: 0, bytes: headerBytes, fields, littleEndian: true }];
}

async function headOf(folder: StorageFolder, file: string): Promise<Uint8Array> {
  const storage = await folder.open(file, { readOnly: true });
  const head = new Uint8Array(headerBytes);
  await storage.read(0, head);
  await storage.close();
  return head;
}

type Spoil = (
  folder: StorageFolder,
  file: string,
  image: DriverImage,
  value: number,
  readOnly: boolean,
) => unknown;

/** The driver, opening in a way that `spoil` spoils where some field of the header is large. */
function spoilt(spoil: Spoil): BlockDriver {
  return {
    ...mapping,
    async open(folder: StorageFolder, file: string, context: OpenContext): Promise<DriverImage> {
      const image = await mapping.open(folder, file, context);
      const head = viewOf(await headOf(folder, file));
      const values = Array.from({ length: headerBytes / 4 }, (_, index) => head.getUint32(index * 4, true));
      const large = values.find((value) => value >= 0x7fff_ffff);
      if (file !== 'disk.img' || large === undefined) return image;
      return (
        ((await spoil(folder, file, image, large, context.readOnly)) as DriverImage | undefined) ?? image
      );
    },
  };
}

async function firstFailure(driver: BlockDriver): Promise<string | undefined> {
  const run = new MutantRun([{ driver, structures }], seed);
  for (let index = 0; index < mutants; index += 1) {
    const mutant = await run.mutant(index);
    try {
      await run.use(mutant);
    } catch (error) {
      return (error as Error).message;
    }
  }
  return undefined;
}

const kept: Uint8Array[] = [];

it.each<[string, Spoil, RegExp]>([
  [
    'an error without a code',
    () => {
      throw new TypeError('no');
    },
    /without a code/,
  ],
  [
    'a code without a field',
    (_folder, file) => {
      throw new CowlabError('ERR_CORRUPT', 'no', { file });
    },
    /names no file and field/,
  ],
  [
    'a loop over the storage without end',
    async (folder, file) => {
      for (;;) await headOf(folder, file);
    },
    /storage calls/,
  ],
  [
    'a buffer as large as the image says',
    async (folder, file, _image, value) => {
      const storage = await folder.open(file, { readOnly: true });
      await storage.read(0, new Uint8Array(value % 0x1000_0000));
    },
    /bytes in one read/,
  ],
  [
    'memory that the storage does not see',
    async (_folder, _file, image) => {
      await image.close();
      kept.push(new Uint8Array(300 * 1024 * 1024).fill(1));
      throw new CowlabError('ERR_IO', 'no');
    },
    /grew by/,
  ],
  [
    'a rejection that nobody waits for',
    () => {
      void Promise.reject(new Error('no'));
    },
    /nobody waits for/,
  ],
  [
    'a file that stays open',
    async (folder, file) => {
      await folder.open(file, { readOnly: true });
    },
    /left open/,
  ],
  [
    'bytes that depend on how the image was opened',
    (_folder, _file, image, _value, readOnly) =>
      new Proxy(image, {
        get(target, key): unknown {
          const value: unknown = Reflect.get(target, key, target);
          if (key === 'map' && readOnly)
            return (_offset: number, length: number): Extent => ({ kind: 'zero', length, allocated: true });
          return typeof value === 'function' ? value.bind(target) : value;
        },
      }),
    /opened for writing/,
  ],
  [
    'a refused image that was changed',
    async (folder, file) => {
      const storage = await folder.open(file, { readOnly: false });
      await storage.write(2, new Uint8Array(1));
      await storage.close();
      throw new CowlabError('ERR_CORRUPT', 'no', { file, field: 'header' });
    },
    /the file disk.img/,
  ],
])('damaged images bring out %s', async (_, spoil, problem) => {
  expect(await firstFailure(spoilt(spoil))).toMatch(problem);
  kept.length = 0;
});

it('damaged images find nothing in the driver without a defect', async () => {
  expect(await firstFailure(mapping)).toBeUndefined();
});
