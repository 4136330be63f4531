import {
  type BlockDriver,
  CountingFolder,
  createDisk,
  type Disk,
  MemoryFolder,
  openDisk,
  type StorageFolder,
} from '@cowlab/core';
import { pattern } from '@cowlab/conformance';
import { expect } from 'vitest';
import { fvd } from '../src/index.ts';
import { decodeSuperblock, SLOT_BYTES, type Superblock } from '../src/layout.ts';

/* Small images in memory, and the questions that several tests ask of them. */

export const file = 'disk.fvd';
export const KiB = 1024;
export const MiB: number = KiB * KiB;
/** 16 blocks a chunk: small enough to fill, large enough to pack. */
const small = { chunk_size: 64 * KiB, block_size: 4 * KiB, journal_size: 64 * KiB };

/** The driver, opened with other options. */
function tuned(options: Readonly<Record<string, number | boolean>>): BlockDriver {
  return {
    ...fvd,
    open: (folder, name, context) =>
      fvd.open(folder, name, { ...context, options: { ...context.options, ...options } }),
  };
}

/** The driver, with so few places allowed to a chunk that first writes gather all the time. */
export function gathering(maxPlaces: number): BlockDriver {
  return tuned({ max_places: maxPlaces });
}

/** The driver, with deltas over pages of any length. */
export function eager(maxPlaces = 64): BlockDriver {
  return tuned({ max_places: maxPlaces, min_delta_page: 0 });
}

/** The driver, copying by the chunk: then all of a chunk differs from the snapshot, as it would tell. */
export const copyingChunks: BlockDriver = {
  ...tuned({ copy_chunks: true }),
  capabilities: { ...fvd.capabilities, diff: false },
  async open(folder, name, context) {
    const image = await tuned({ copy_chunks: true }).open(folder, name, context);
    Object.defineProperty(image.snapshots, 'diff', { value: undefined });
    return image;
  },
};

/** The driver, with refcounts as QCOW2 has them: files are longer by these, of which `measure` knows nothing. */
export const countingLive: BlockDriver = withoutMeasure(tuned({ live_refcounts: true }));

function withoutMeasure(driver: BlockDriver): BlockDriver {
  const without = { ...driver, capabilities: { ...driver.capabilities, measure: false } };
  Reflect.deleteProperty(without, 'measure');
  return without;
}

/** How many rows of blocks each chunk of the disk lies in. */
export function placesByChunk(disk: Disk, chunkBytes: number): number[] {
  const places: number[] = [];
  for (let start = 0; start < disk.size; start += chunkBytes) {
    const distances: number[] = [];
    const end = Math.min(disk.size, start + chunkBytes);
    for (let at = start; at < end; ) {
      const extent = disk.image.map(at, end - at);
      if (extent instanceof Promise) throw new Error('FVD maps without waiting');
      if (extent.kind === 'data' && distances.at(-1) !== extent.hostOffset - at) {
        distances.push(extent.hostOffset - at);
      }
      at += extent.length;
    }
    places.push(distances.length);
  }
  return places;
}

export interface ImageOptions {
  readonly size?: number;
  readonly options?: Readonly<Record<string, string | number>>;
  readonly backing?: string;
}

export async function makeImage(folder: StorageFolder, request: ImageOptions = {}): Promise<void> {
  const { size = MiB, options = small, backing } = request;
  const base = backing === undefined ? {} : { backing: { file: backing, format: 'raw' } };
  await createDisk({ folder, file }, { driver: fvd, size, options, ...base });
}

export function openImage(folder: StorageFolder, readOnly = false): Promise<Disk> {
  return openDisk({ folder, file }, { drivers: [fvd], format: 'fvd', readOnly });
}

/** A new image that is open, in a folder that counts. */
export async function countedDisk(
  request: ImageOptions = {},
): Promise<{ disk: Disk; folder: CountingFolder }> {
  const folder = new CountingFolder(new MemoryFolder());
  await makeImage(folder, request);
  return { disk: await openImage(folder), folder };
}

export async function contents(disk: Disk): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

export async function fileBytes(folder: StorageFolder, name: string = file): Promise<Uint8Array> {
  const storage = await folder.open(name, { readOnly: true });
  const bytes = new Uint8Array(storage.size());
  await storage.read(0, bytes);
  await storage.close();
  return bytes;
}

/** A folder with one file. */
export async function folderWith(bytes: Uint8Array, name: string = file): Promise<MemoryFolder> {
  const folder = new MemoryFolder();
  const storage = await folder.create(name);
  await storage.write(0, bytes);
  await storage.close();
  return folder;
}

/** The files as they are now: what a power loss would leave that loses nothing. */
export async function copyOf(folder: StorageFolder): Promise<MemoryFolder> {
  return folderWith(await fileBytes(folder));
}

export function filled(length: number, value: number): Uint8Array {
  return new Uint8Array(length).fill(value);
}

/** What an error that names this file and `field` looks like. */
export function refusal(field: string, code = 'ERR_CORRUPT'): Error {
  return expect.objectContaining({ code, data: expect.objectContaining({ file, field }) }) as Error;
}

/** An image with data, a snapshot, and data after it; closed. */
export async function snapshotImage(): Promise<Uint8Array> {
  const folder = new MemoryFolder();
  await makeImage(folder);
  const disk = await openImage(folder);
  await disk.write(0, pattern(1, 300 * KiB));
  await disk.snapshots.create('s');
  await disk.write(10 * KiB, pattern(2, 5 * KiB));
  await disk.close();
  return fileBytes(folder);
}

/** The superblock that rules. */
export function newestOf(image: Uint8Array): Superblock {
  const slots = [0, 1].map((slot) =>
    decodeSuperblock(image.subarray(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES), 'x'),
  );
  const [first, second] = slots;
  return first!.generation > second!.generation ? first! : second!;
}
