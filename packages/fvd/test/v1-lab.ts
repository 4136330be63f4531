import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { type Disk, type MemoryFolder, openDisk, type StorageFolder, viewOf } from '@cowlab/core';
import { fvd } from '../src/index.ts';
import { file, folderWith } from './lab.ts';

/* The images that the original program wrote, and ways to damage copies of them. */

export interface Fixture {
  readonly file: string;
  readonly virtual_size: number;
  readonly base: string | null;
  readonly state: string;
  /** Of everything that a guest reads. */
  readonly raw_sha256: string;
  readonly file_sha256: string;
}

const place = new URL('fixtures/v1/', import.meta.url);

export const fixtures = JSON.parse(readFileSync(new URL('manifest.json', place), 'utf8')) as Fixture[];

const unzipped = new Map<string, Uint8Array>();

/** A file of the fixtures, unzipped; the caller's to change. */
export function fixtureBytes(name: string): Uint8Array {
  const bytes = unzipped.get(name) ?? new Uint8Array(gunzipSync(readFileSync(new URL(`${name}.gz`, place))));
  unzipped.set(name, bytes);
  return bytes.slice();
}

/** A folder with the image and, beside it, the base of all fixtures that have one. */
export async function folderOf(image: Uint8Array): Promise<MemoryFolder> {
  const folder = await folderWith(image);
  const base = await folder.create('base.raw');
  await base.write(0, fixtureBytes('base.raw'));
  await base.close();
  return folder;
}

export function openToRead(folder: StorageFolder): Promise<Disk> {
  return openDisk({ folder, file }, { drivers: [fvd], readOnly: true });
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

export function put32(image: Uint8Array, offset: number, value: number): void {
  viewOf(image).setInt32(offset, value | 0, true);
}

export function put64(image: Uint8Array, offset: number, value: number | bigint): void {
  viewOf(image).setBigInt64(offset, BigInt(value), true);
}

export function putText(image: Uint8Array, offset: number, text: string): void {
  image.set(new TextEncoder().encode(`${text}\0`), offset);
}
