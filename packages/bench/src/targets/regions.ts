import fs from 'node:fs/promises';
import path from 'node:path';
import type { Purpose, Regions } from './strace.ts';

/*
 * What the bytes of QEMU's files are for, so that its calls fall under the same purposes as our drivers' do. The image
 * tells it itself when it is at rest; a cluster that has had two lives is counted under the last.
 *
 *   QCOW2   header; refcount table and blocks; snapshot table; L1 and L2 tables, those of snapshots too; the rest is data
 *   VMDK    header and descriptor; directories and tables up to the first grain; the rest is data
 */

type FileRegions = (offset: number) => Purpose;

class Reader {
  readonly #file: fs.FileHandle;

  constructor(file: fs.FileHandle) {
    this.#file = file;
  }

  async bytes(offset: number, length: number): Promise<DataView> {
    const target = new Uint8Array(length);
    await this.#file.read(target, 0, length, offset);
    return new DataView(target.buffer);
  }

  /** 64-bit numbers of a table, those that are not zero, with flags masked out. */
  async pointers(offset: number, count: number, mask: bigint): Promise<number[]> {
    const view = await this.bytes(offset, count * 8);
    return Array.from({ length: count }, (_, index) => Number(view.getBigUint64(index * 8) & mask)).filter(
      (pointer) => pointer > 0,
    );
  }
}

const L2_OFFSET = 0x00ff_ffff_ffff_fe00n;
const REFCOUNT_OFFSET = 0xffff_ffff_ffff_fe00n;

async function qcow2Regions(reader: Reader): Promise<FileRegions> {
  const header = await reader.bytes(0, 72);
  const at = (offset: number): number => Number(header.getBigUint64(offset));
  const clusterBytes = 2 ** header.getUint32(20);
  const clusters = new Map<number, Purpose>([[0, 'header']]);
  const mark = (purpose: Purpose, offset: number, length: number): void => {
    for (let byte = offset; byte < offset + length; byte += clusterBytes)
      clusters.set(Math.floor(byte / clusterBytes), purpose);
  };
  const markMapping = async (l1Offset: number, l1Entries: number): Promise<void> => {
    mark('mapping', l1Offset, l1Entries * 8);
    for (const table of await reader.pointers(l1Offset, l1Entries, L2_OFFSET))
      mark('mapping', table, clusterBytes);
  };
  const [tableOffset, tableBytes] = [at(48), header.getUint32(56) * clusterBytes];
  mark('refcount', tableOffset, tableBytes);
  for (const block of await reader.pointers(tableOffset, tableBytes / 8, REFCOUNT_OFFSET))
    mark('refcount', block, clusterBytes);
  let entry = at(64);
  for (let left = header.getUint32(60); left > 0; left--) {
    const fixed = await reader.bytes(entry, 40);
    const texts = fixed.getUint16(12) + fixed.getUint16(14) + fixed.getUint32(36);
    const length = Math.ceil((40 + texts) / 8) * 8;
    mark('snapshot', entry, length);
    await markMapping(Number(fixed.getBigUint64(0)), fixed.getUint32(8));
    entry += length;
  }
  await markMapping(at(40), header.getUint32(36));
  return (offset) => clusters.get(Math.floor(offset / clusterBytes)) ?? 'data';
}

const SECTOR = 512;

async function vmdkRegions(reader: Reader): Promise<FileRegions> {
  const header = await reader.bytes(0, 80);
  const sectors = (offset: number): number => Number(header.getBigUint64(offset, true)) * SECTOR;
  const [descriptorEnd, firstGrain] = [sectors(28) + sectors(36), sectors(64)];
  return (offset) => (offset < descriptorEnd ? 'header' : offset < firstGrain ? 'mapping' : 'data');
}

const readers: Readonly<Record<string, (reader: Reader) => Promise<FileRegions>>> = {
  qcow2: qcow2Regions,
  vmdk: vmdkRegions,
};

/** The regions of every file of a folder, all of one format. */
export async function regionsOf(folder: string, format: string): Promise<Regions> {
  const read = readers[format];
  const files = new Map<string, FileRegions>();
  if (read !== undefined) {
    for (const name of await fs.readdir(folder)) {
      const file = await fs.open(path.join(folder, name));
      files.set(name, await read(new Reader(file)));
      await file.close();
    }
  }
  return (file, offset) => files.get(file)?.(offset) ?? 'data';
}
