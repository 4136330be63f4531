import { endianness } from 'node:os';
import path from 'node:path';
import {
  type CheckOptions,
  type CheckReport,
  type Finding,
  isCowlabError,
  roundUp,
  viewOf,
} from '@cowlab/core';
import type { ChainFile } from './chain-file.ts';
import type { SparseExtent } from './extent.ts';
import { FlatExtent } from './flat-extent.ts';
import type { VmdkImage } from './image.ts';
import {
  firstGrainSector,
  GRAIN_TABLE_BYTES,
  GRAIN_TABLE_ENTRIES,
  GRAIN_TABLE_SECTORS,
  SECTOR,
  ZEROED_GRAIN,
} from './layout.ts';
import { assertNotAborted } from './merge.ts';
import { type Repair, repairTables } from './repair.ts';
import { checkStream, type OnFinding } from './stream-check.ts';
import { TablePieces, WINDOW_BYTES } from './table-stream.ts';
import { isSnapshotName } from './vmsd.ts';

/*
 * The check of a whole chain, file by file from the top. For each file: header, descriptor, directories and tables
 * apart from each other; every grain inside the file and behind the metadata, no two grains on one another; both
 * copies of directories and tables alike; the extent's size and the CID of the parent as the descriptor has them;
 * and every snapshot that the directory lists opens, its own chain being checked in the same way. A file with a name
 * of ours that no snapshot lists and no chain leads to is a leak. What lies between the
 * grains and belongs to none of them is a leak: a grain that was written, but whose entry power cut off.
 *
 * Second copies that are behind the first are counted as leaks too, not as corruption: power may fail between
 * the two, the first copy is the one that counts, and the next write to the table makes them alike.
 */

const MAX_FINDINGS = 1000;
/** What a table in a hole of the file holds. */
const NO_BYTES = new Uint8Array(GRAIN_TABLE_BYTES);

/** Sector numbers in the order they come, 4 bytes each: a disk may have some millions of grains. */
class SectorList {
  #values = new Uint32Array(1024);
  #length = 0;
  #last = 0;
  #isSorted = true;

  push(sector: number): void {
    if (this.#length === this.#values.length) {
      const larger = new Uint32Array(2 * this.#length);
      larger.set(this.#values);
      this.#values = larger;
    }
    if (sector < this.#last) this.#isSorted = false;
    this.#last = sector;
    this.#values[this.#length++] = sector;
  }

  sorted(): Uint32Array {
    const values = this.#values.subarray(0, this.#length);
    return this.#isSorted ? values : values.toSorted();
  }
}

class Report {
  corruptions = 0;
  leaks = 0;
  repaired = 0;
  readonly findings: Finding[] = [];

  /** A finding that is none any more. */
  addRepair({ severity, structure, message, hostOffset }: Repair, file: string): void {
    this.repaired++;
    if (this.findings.length === MAX_FINDINGS) return;
    this.findings.push({ severity, structure, message, file, repaired: true, hostOffset });
  }

  add(
    severity: Finding['severity'],
    file: string,
    structure: string,
    message: string,
    hostOffset?: number,
  ): void {
    if (severity === 'corruption') this.corruptions++;
    else this.leaks++;
    if (this.findings.length === MAX_FINDINGS) return;
    const place = hostOffset === undefined ? {} : { hostOffset };
    this.findings.push({ severity, structure, message, file, repaired: false, ...place });
  }
}

/** What the tables of one file say. */
interface Usage {
  /** First sectors of all grains, sorted. */
  readonly grains: Uint32Array;
  /** First sectors of the grain tables, both copies, sorted. */
  readonly tables: Uint32Array;
}

export async function checkChain(top: VmdkImage, options: CheckOptions): Promise<CheckReport> {
  const report = new Report();
  const chain = top.chain();
  const extents = chain.flatMap(({ own }) => own.sparseExtents);
  const total = extents.reduce((sum, { header }) => sum + header.tableCount, 0);
  let done = 0;
  if (!top.own.readOnly) await top.flush();
  const totals: Totals = { allocatedBytes: 0, imageEndBytes: 0 };
  const checked = new Set<string>();
  const checkOne = async (image: VmdkImage): Promise<void> => {
    if (checked.has(image.file)) return;
    checked.add(image.file);
    const onTable = (): void => {
      assertNotAborted(image.file, options.signal);
      done++;
      options.onProgress?.({ done, total: Math.max(done, total) });
    };
    const usage = await checkExtents(image.own, report, onTable);
    if (image === top) Object.assign(totals, usage);
    checkDescriptor(image, report);
  };
  if (options.repair === 'all') await repairFile(top.own, report, options.signal);
  for (const image of chain) await checkOne(image);
  const listed = await checkSnapshots(top, report, checked, checkOne);
  await checkNames(top, new Set(listed), checked, report);
  const { corruptions, leaks, repaired, findings } = report;
  return { corruptions, leaks, repaired, findings, ...totals };
}

/** The disk's own tables; the files below it are open to be read only. */
async function repairFile(file: ChainFile, report: Report, signal: CheckOptions['signal']): Promise<void> {
  for (const extent of file.sparseExtents) {
    assertNotAborted(file.file, signal);
    await repairTables(extent, (repair) => report.addRepair(repair, extent.file));
  }
}

/** What the extents of a file hold, together. */
interface Totals {
  allocatedBytes: number;
  imageEndBytes: number;
}

async function checkExtents(file: ChainFile, report: Report, onTable: () => void): Promise<Totals> {
  const totals: Totals = { allocatedBytes: 0, imageEndBytes: 0 };
  if (file.stream !== undefined) {
    const found: OnFinding = (severity, ...about) => report.add(severity, file.file, ...about);
    return checkStream(file.stream, found, onTable);
  }
  const sparse = file.sparseExtents;
  for (const extent of sparse) {
    const usage = await readUsage(extent, report, onTable);
    checkStructures(extent, usage, report);
    checkPlaces(extent, usage, report);
    const { grainBytes, overheadBytes } = extent.header;
    const last = usage.grains.at(-1);
    totals.allocatedBytes += usage.grains.length * grainBytes;
    totals.imageEndBytes += last === undefined ? overheadBytes : last * SECTOR + grainBytes;
  }
  for (const part of file.parts) {
    if (!(part instanceof FlatExtent)) continue;
    totals.allocatedBytes += part.size;
    totals.imageEndBytes += part.size;
  }
  return totals;
}

/** Reads every table of both copies, once each, past the cache, in large pieces. */
async function readUsage(extent: SparseExtent, report: Report, onTable: () => void): Promise<Usage> {
  const { file, storage, tables, header } = extent;
  const { redundantDirectoryOffset } = header;
  const second =
    redundantDirectoryOffset === undefined ? undefined : await readSecond(extent, redundantDirectoryOffset);
  if (header.isDirectoryLost) {
    report.add('corruption', file, 'header', 'gdOffset leads out of the file; the second directory is read');
  }
  const grains = new SectorList();
  const places = new SectorList();
  const primary = new TablePieces(storage, tables.directory, WINDOW_BYTES);
  const redundant = second && new TablePieces(storage, second, WINDOW_BYTES);
  for (const [index, sector] of tables.directory.entries()) {
    onTable();
    const twin = second?.[index] ?? 0;
    if (second !== undefined && (sector === 0) !== (twin === 0)) {
      report.add('corruption', file, 'grain directory', `the copies disagree about table ${index}`);
    }
    if (sector === 0) continue;
    places.push(sector);
    if (extent.restored.has(index)) {
      report.add('corruption', file, 'grain directory', `entry ${index} is lost; the second copy is read`);
    }
    const bytes = await primary.at(index);
    if (bytes !== undefined) readTable(extent, index, bytes, grains, report);
    if (redundant === undefined || twin === 0 || extent.restored.has(index)) continue;
    if (twin * SECTOR + GRAIN_TABLE_BYTES > storage.size()) {
      report.add('corruption', file, 'redundant grain directory', `table ${index} lies outside the file`);
      continue;
    }
    places.push(twin);
    const copy = await redundant.at(index);
    if (copy === bytes || Buffer.compare(copy ?? NO_BYTES, bytes ?? NO_BYTES) === 0) continue;
    report.add('leak', file, 'redundant grain table', `copy of table ${index} is behind`, twin * SECTOR);
  }
  return { grains: grains.sorted(), tables: places.sorted() };
}

async function readSecond(extent: SparseExtent, offset: number): Promise<Uint32Array> {
  const bytes = new Uint8Array(extent.header.tableCount * 4);
  await extent.storage.read(offset, bytes, 'mapping');
  const view = viewOf(bytes);
  return Uint32Array.from({ length: extent.header.tableCount }, (_, i) => view.getUint32(i * 4, true));
}

function readTable(
  extent: SparseExtent,
  index: number,
  bytes: Uint8Array,
  grains: SectorList,
  report: Report,
): void {
  const { header, storage, file } = extent;
  const entries = entriesOf(bytes);
  const first = index * GRAIN_TABLE_ENTRIES;
  const inDisk = Math.ceil(header.size / header.grainBytes) - first;
  const lowest = firstGrainSector(header);
  const end = Math.ceil(storage.size() / SECTOR);
  for (let i = 0; i < GRAIN_TABLE_ENTRIES; i++) {
    const sector = entries[i]!;
    if (sector === 0) continue;
    if (sector >= lowest && sector < end && i < inDisk) {
      grains.push(sector);
      continue;
    }
    if (sector === ZEROED_GRAIN && header.zeroedGrains) continue;
    const problem =
      sector < lowest
        ? 'lies inside the metadata'
        : sector >= end
          ? 'lies outside the file'
          : 'lies past the end of the disk';
    report.add('corruption', file, 'grain table', `grain ${first + i} ${problem}`, sector * SECTOR);
  }
}

const hasLittleEnd = endianness() === 'LE';

/** The entries of a table; the bytes themselves where this machine reads them so: a check looks at some millions. */
function entriesOf(bytes: Uint8Array): Uint32Array {
  if (hasLittleEnd && bytes.byteOffset % 4 === 0) {
    return new Uint32Array(bytes.buffer, bytes.byteOffset, GRAIN_TABLE_ENTRIES);
  }
  const view = viewOf(bytes);
  return Uint32Array.from({ length: GRAIN_TABLE_ENTRIES }, (_, i) => view.getUint32(i * 4, true));
}

/** What a write to one structure would change of another. */
function checkStructures(extent: SparseExtent, { tables }: Usage, report: Report): void {
  const { file, header } = extent;
  const directoryBytes = header.tableCount * 4;
  const fixed: [string, number | undefined, number][] = [
    ['header', 0, SECTOR],
    ['descriptor', header.descriptorOffset, header.descriptorBytes],
    ['grain directory', header.isDirectoryLost ? undefined : header.directoryOffset, directoryBytes],
    ['redundant grain directory', header.redundantDirectoryOffset, directoryBytes],
  ];
  const placed = fixed.flatMap(([name, at, bytes]) =>
    at === undefined || bytes === 0 ? [] : [{ name, at, end: at + bytes }],
  );
  placed.sort((a, b) => a.at - b.at);
  for (const [i, one] of placed.entries()) {
    const before = placed[i - 1];
    if (before !== undefined && one.at < before.end) {
      report.add('corruption', file, one.name, `lies on the ${before.name}`, one.at);
    }
  }
  for (const [i, sector] of tables.entries()) {
    const at = sector * SECTOR;
    const under = placed.find((one) => at < one.end && at + GRAIN_TABLE_BYTES > one.at);
    if (under !== undefined) report.add('corruption', file, 'grain table', `lies on the ${under.name}`, at);
    if (i > 0 && sector - tables[i - 1]! < GRAIN_TABLE_SECTORS) {
      report.add('corruption', file, 'grain table', 'lies on another grain table', at);
    }
  }
}

/** Grains on one another are corruption; whole grains of space between them are leaks. */
function checkPlaces(extent: SparseExtent, usage: Usage, report: Report): void {
  const { file, storage, header } = extent;
  const grainSectors = header.grainBytes / SECTOR;
  let end = header.overheadBytes / SECTOR;
  let table = 0;
  const pass = (next: number): void => {
    // Tables among the grains are as others lay them out.
    for (; table < usage.tables.length && usage.tables[table]! <= next; table++) {
      const at = usage.tables[table]!;
      if (at * SECTOR >= header.overheadBytes && at < end) {
        report.add('corruption', file, 'grain table', 'lies on a grain or another table', at * SECTOR);
      }
      leak(at);
      end = Math.max(end, at + GRAIN_TABLE_BYTES / SECTOR);
    }
    leak(next);
  };
  const leak = (next: number): void => {
    for (let at = end; at + grainSectors <= next; at += grainSectors) {
      report.add('leak', file, 'grain', 'no table refers to it', at * SECTOR);
    }
  };
  const { grains, tables } = usage;
  for (let i = 0; i < grains.length; i++) {
    const sector = grains[i]!;
    // Most grains lie next to the one before.
    if (sector === end && !(tables[table]! <= sector)) {
      end += grainSectors;
      continue;
    }
    pass(sector);
    if (sector < end) {
      report.add('corruption', file, 'grain', 'lies on another grain or table', sector * SECTOR);
    }
    end = Math.max(end, sector + grainSectors);
  }
  const last = usage.grains.at(-1);
  if (last !== undefined && last + grainSectors > extent.grains.next) {
    report.add('corruption', file, 'grain', 'reaches into the place of the next new one', last * SECTOR);
  }
  // What a device holds behind the last grain belongs to nobody.
  pass(storage.fixedSize === true ? Math.max(end, tables.at(-1) ?? 0) : Math.ceil(storage.size() / SECTOR));
}

function checkDescriptor({ parent, own }: VmdkImage, report: Report): void {
  const [extent] = own.sparseExtents;
  // Extents of their own files are compared with their lines at open.
  if (own.isEmbedded && extent !== undefined) {
    const { size, grainBytes } = extent.header;
    const described = own.extentSectors * SECTOR;
    // Some programs give the header whole grains.
    if (roundUp(described, grainBytes) !== roundUp(size, grainBytes)) {
      const problem = `extent of ${described} bytes, where the header has ${size}`;
      report.add('corruption', own.file, 'descriptor', problem);
    }
  }
  if (parent !== undefined && !own.acceptsParent(parent.own.cid)) {
    report.add('corruption', own.file, 'descriptor', `parentCID is not the CID of ${parent.file}`);
  }
}

/**
 * Every listed snapshot is there, and opens; those beside the disk's own chain are checked as it is, each file once.
 * Returns their files.
 */
async function checkSnapshots(
  top: VmdkImage,
  report: Report,
  checked: ReadonlySet<string>,
  checkOne: (image: VmdkImage) => Promise<void>,
): Promise<string[]> {
  const { snapshots, surroundings } = top;
  let listed: { readonly id: string; readonly file: string }[];
  try {
    listed = await snapshots.places();
  } catch (error) {
    // What cannot be read is not known to be wrong.
    if (!isCowlabError(error) || error.code === 'ERR_IO') throw error;
    report.add('corruption', error.data.file ?? top.file, 'snapshot directory', error.message);
    return [];
  }
  // The newest first: its chain has most of the others.
  for (const { id, file } of listed.toReversed()) {
    if (checked.has(file)) continue;
    if (!(await surroundings.folder.exists(file))) {
      report.add('corruption', file, 'snapshot directory', 'the file of a listed snapshot is missing');
      continue;
    }
    let image: VmdkImage;
    try {
      image = (await snapshots.open(id)) as VmdkImage;
    } catch (error) {
      if (!isCowlabError(error)) throw error;
      report.add('corruption', error.data.file ?? file, 'snapshot', error.message);
      continue;
    }
    try {
      for (const each of image.chain()) await checkOne(each);
    } finally {
      await image.close();
    }
  }
  return listed.map(({ file }) => file);
}

/** Files with names of ours that no snapshot lists and no chain leads to: a crash leaves them, see FORMAT.md. */
async function checkNames(
  top: VmdkImage,
  listed: ReadonlySet<string>,
  checked: ReadonlySet<string>,
  report: Report,
): Promise<void> {
  const { folder } = top.surroundings;
  // Other folders are not ours to search.
  if (path.dirname(top.file) !== '.') return;
  for (const name of await folder.list()) {
    if (listed.has(name) || checked.has(name) || !isSnapshotName(top.file, name)) continue;
    report.add('leak', name, 'file', 'no snapshot lists it, and nothing here stands on it');
  }
}
