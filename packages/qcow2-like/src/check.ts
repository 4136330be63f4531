import { type CheckOptions, type CheckReport, corrupt, type Finding, viewOf } from '@cowlab/core';
import {
  type Census,
  liesOnAnother,
  maxProblems,
  type Problem,
  subclusterBitmap,
  takeCensus,
} from './census.ts';
import { compressedFlag, copiedFlag, hostOffsetOf, zeroFlag } from './entries.ts';
import type { ImageParts } from './image.ts';
import type { ImageFile } from './image-file.ts';
import { readL1 } from './mapping.ts';
import type { Metadata } from './metadata.ts';
import { rebuildRefcounts } from './rebuild.ts';
import type { References } from './references.ts';
import { Refcounts } from './refcounts.ts';
import { separateData } from './separate.ts';
import { bitmapProblem, extendedEntryBytes, isMendable, mendBitmap } from './subclusters.ts';
import { type TableAt, walkTables } from './walk.ts';

/*
 * Check and repair. The census (census.ts) says how often each cluster is referred to; the bookkeeping must say
 * the same, twice: in the refcounts, and in the COPIED flags of the active tables, set where the count is one.
 *
 *   refcount too low, or block missing   corruption: the cluster could be given to somebody else
 *   refcount too high                    leak
 *   more than a count can say            corruption that stays: refcount_order is wrong
 *   COPIED without a count of one        corruption: a write in place would change a snapshot
 *   COPIED missing                       leak: one needless copy, and its old place (QEMU calls it an error)
 *   refcount block where nothing can be, or where something else is (the table, too)
 *                                        corruption; all counts are written anew
 *   guest cluster on a table             corruption; it gets a place of its own (separate.ts)
 *   other pointer where nothing can be   corruption that nothing here can mend: it is reported, and stays
 *   bitmap of subclusters that says      corruption; where it can only mean one thing it is mended, else it stays, and
 *   what cannot be                       hinders no other repair
 *
 * While the dirty bit is set, the bookkeeping is stale and known to be: what is wrong with it is no corruption,
 * and the next open for writing sets it right.
 *
 * An image with the corrupt bit that was opened for repair loses it, and the dirty bit, when a repair of all leaves nothing.
 *
 * Repair runs under the dirty bit (version 3), so a power loss in its middle means that it is done again.
 */

const maxFindings = 1000;

class Report {
  corruptions = 0;
  leaks = 0;
  repaired = 0;
  readonly findings: Finding[] = [];
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  add(finding: Omit<Finding, 'file'>): void {
    if (finding.repaired) this.repaired += 1;
    else if (finding.severity === 'leak') this.leaks += 1;
    else this.corruptions += 1;
    if (this.findings.length < maxFindings) this.findings.push({ ...finding, file: this.#file });
  }
}

/** Counts that are wrong, by cluster. */
interface WrongCount {
  readonly cluster: number;
  readonly expected: number;
  readonly recorded: number;
  /** There is no refcount block that could hold the count. */
  readonly isMissing: boolean;
}

/**
 * Checks a state of which nothing is in memory only. Repairs nothing while a pointer leads nowhere: what lies behind
 * it would be lost. A pointer to a refcount block is the exception: what it counts can be counted anew.
 */
export async function checkImage(parts: ImageParts, options: CheckOptions): Promise<CheckReport> {
  const { file, metadata } = parts;
  const report = new Report(file.name);
  let census = await takeCensus(file, metadata?.snapshots ?? parts.snapshots, options);
  if (metadata !== undefined && options.repair === 'all' && (await separate(metadata, census, report)))
    census = await takeCensus(file, metadata.snapshots, options);
  const lost = census.problems.filter(leadsNowhere);
  const isLost = lost.length > 0;
  const isKnown = census.problems.length < maxProblems;
  const canRebuild = options.repair === 'all' && isKnown && lost.every(isOfRefcounts);
  const repairs = isLost && !canRebuild ? undefined : options.repair;
  for (const { isMendable: canMend, ...problem } of census.problems) {
    const repaired = leadsNowhere(problem) ? canRebuild : canMend === true && repairs === 'all';
    report.add({ severity: 'corruption', repaired, ...problem });
  }
  const isStale = file.header.dirty;
  const refcounts = metadata?.refcounts ?? (await Refcounts.load(file, file.geometry.clusterBytes));
  const wrong = (await compareCounts(refcounts, census)).filter(({ cluster, expected, recorded }) => {
    const isLeak = recorded > expected;
    const fits = expected <= file.geometry.maxRefcount;
    const repaired = fits && (repairs === 'all' || (repairs === 'leaks' && isLeak));
    const severity = isLeak || isStale ? 'leak' : 'corruption';
    const message = `the image refers to it ${expected} times, the refcount says ${recorded}`;
    const hostOffset = cluster * file.geometry.clusterBytes;
    report.add({ severity, structure: 'refcount', message, hostOffset, repaired });
    return repaired;
  });
  let wrongFlags = 0;
  await compareFlags(file, census, (hostOffset, table, isOne) => {
    wrongFlags += 1;
    const severity = isOne || isStale ? 'leak' : 'corruption';
    const message = `in the ${table}: ${isOne ? 'missing, though nothing else refers' : 'set, though something else refers too'}`;
    report.add({ severity, structure: 'COPIED flag', message, hostOffset, repaired: repairs !== undefined });
  });
  const mustRepair = wrong.length > 0 || (repairs !== undefined && (wrongFlags > 0 || isLost));
  if (metadata !== undefined && repairs === 'all') await mendBitmaps(metadata, census);
  if (metadata !== undefined && mustRepair) {
    await repair(metadata, census, () =>
      isLost ? rebuildRefcounts(metadata, census.references) : mendCounts(metadata, census, wrong),
    );
  }
  const isWhole = report.corruptions + report.leaks === 0;
  if (metadata?.mayBeRepaired === true && options.repair === 'all' && isWhole) await metadata.absolve();
  return {
    corruptions: report.corruptions,
    leaks: report.leaks,
    repaired: report.repaired,
    findings: report.findings,
    allocatedBytes: census.allocatedBytes,
    imageEndBytes:
      census.references.end * file.geometry.clusterBytes + (file.hasDataFile ? file.dataStorage.size() : 0),
  };
}

/** Gives guest clusters that lie on metadata a place of their own, where nothing else is in the way of a repair. */
async function separate(metadata: Metadata, census: Census, report: Report): Promise<boolean> {
  const overlaps = census.problems.filter(({ message }) => message === liesOnAnother);
  const others = census.problems.filter((problem) => leadsNowhere(problem) && !overlaps.includes(problem));
  if (overlaps.length === 0 || others.length > 0 || !(await separateData(metadata, census))) return false;
  for (const problem of overlaps) report.add({ severity: 'corruption', repaired: true, ...problem });
  return true;
}

/** Counts how often each cluster is referred to. Throws `ERR_CORRUPT` when a pointer leads nowhere. */
export async function takeSoundCensus({ file, snapshots }: Metadata): Promise<Census> {
  const census = await takeCensus(file, snapshots, {});
  const problem = census.problems.find(leadsNowhere);
  if (problem === undefined) return census;
  const { structure, message, hostOffset } = problem;
  throw corrupt(file.name, structure, message, hostOffset === undefined ? {} : { offset: hostOffset });
}

/**
 * Makes refcounts and COPIED flags right and clears the dirty bit: what an image needs whose last writer did not
 * get to its end. Throws `ERR_CORRUPT`, and changes nothing, when a pointer leads nowhere.
 */
export async function recover(metadata: Metadata): Promise<void> {
  const { file } = metadata;
  const census = await takeSoundCensus(metadata);
  const wrong = await compareCounts(metadata.refcounts, census);
  const most = wrong.reduce((largest, { expected }) => Math.max(largest, expected), 0);
  if (most > file.geometry.maxRefcount) {
    const message = `a cluster is referred to ${most} times, more than its count can say`;
    throw corrupt(file.name, 'header.refcount_order', message, { value: file.geometry.refcountBits });
  }
  await repair(metadata, census, () => mendCounts(metadata, census, wrong));
}

/** A wrong bitmap says nothing of where anything is: it hinders no repair of what else there is. */
function leadsNowhere({ structure }: Problem): boolean {
  return structure !== subclusterBitmap;
}

function isOfRefcounts({ structure }: Problem): boolean {
  return structure === 'refcount block' || structure === 'refcount table';
}

async function compareCounts(refcounts: Refcounts, { references }: Census): Promise<WrongCount[]> {
  const wrong: WrongCount[] = [];
  const isMissing = (index: number): boolean => refcounts.soundBlockOffset(index) === 0;
  let view: DataView;
  const recordedAt = (within: number): number => refcounts.width.get(view, within);
  for (let index = 0; index < refcounts.tableEntryCount; index += 1) {
    if (isMissing(index)) continue;
    const block = await refcounts.block(index);
    if (block === undefined) continue;
    view = block.view;
    references.compare(
      index * refcounts.perBlock,
      refcounts.perBlock,
      recordedAt,
      (cluster, expected, recorded) => {
        wrong.push({ cluster, expected, recorded, isMissing: false });
      },
    );
  }
  const mayBeMissing = (first: number, last: number): boolean => {
    for (let index = Math.floor(first / refcounts.perBlock); index * refcounts.perBlock <= last; index += 1)
      if (isMissing(index)) return true;
    return false;
  };
  for (const cluster of references.clusters(mayBeMissing)) {
    if (!isMissing(Math.floor(cluster / refcounts.perBlock))) continue;
    wrong.push({ cluster, expected: references.get(cluster), recorded: 0, isMissing: true });
  }
  return wrong;
}

/** Says of every wrong COPIED flag in the active tables whether its cluster is referred to once. */
async function compareFlags(
  file: ImageFile,
  { references, problems }: Census,
  onWrong: (hostOffset: number, table: string, isOne: boolean) => void,
): Promise<void> {
  // The census knows whether all are right; which are wrong only the tables tell. What is
  // in a data file it does not count.
  if (problems.length === 0 && !references.hasWrongFlags() && !file.hasDataFile) return;
  const compare = (hi: number, lo: number, table: 'L1 table' | 'L2 table'): void => {
    const hostOffset = hostOffsetOf(hi, lo & ~zeroFlag);
    // What is in a data file is nobody else's.
    const isOne =
      (table === 'L2 table' && file.hasDataFile) ||
      references.get(hostOffset / file.geometry.clusterBytes) === 1;
    if (hostOffset !== 0 && isOne !== ((hi & copiedFlag) !== 0)) onWrong(hostOffset, table, isOne);
  };
  const tables = await soundActiveTables(file, references);
  for (const { hi, lo } of tables) compare(hi, lo, 'L1 table');
  await walkTables(file, tables, (_, view) => {
    forEachCluster(file, view, (hi, lo) => compare(hi, lo, 'L2 table'));
    return false;
  });
}

/** The active L2 tables that the census has counted: others lie where they cannot. */
async function soundActiveTables(
  file: ImageFile,
  references: References,
): Promise<(TableAt & { readonly hi: number; readonly lo: number })[]> {
  const { l1Offset, l1EntryCount } = file.header;
  const l1 = viewOf(await readL1(file, { offset: l1Offset, entryCount: l1EntryCount }, 'l1_table_offset'));
  const tables: (TableAt & { hi: number; lo: number })[] = [];
  for (let l1Index = 0; l1Index < l1EntryCount; l1Index += 1) {
    const hi = l1.getUint32(l1Index * 8);
    const lo = l1.getUint32(l1Index * 8 + 4);
    const hostOffset = hostOffsetOf(hi, lo);
    if (hostOffset === 0 || references.get(hostOffset / file.geometry.clusterBytes) === 0) continue;
    tables.push({ hostOffset, l1Index, hi, lo });
  }
  return tables;
}

/** Visits the entries of an L2 table that have a standard cluster. */
function forEachCluster(
  { geometry }: ImageFile,
  view: DataView,
  visit: (hi: number, lo: number, at: number) => void,
): void {
  const { l2EntryBytes } = geometry;
  for (let at = 0; at < view.byteLength; at += l2EntryBytes) {
    const hi = view.getUint32(at);
    const lo = view.getUint32(at + 4);
    if ((hi & compressedFlag) === 0 && (hi !== 0 || lo !== 0)) visit(hi, lo, at);
  }
}

async function mendCounts(metadata: Metadata, census: Census, wrong: readonly WrongCount[]): Promise<void> {
  if (wrong.some(({ isMissing }) => isMissing)) return rebuildRefcounts(metadata, census.references);
  for (const { cluster, expected } of wrong) await metadata.refcounts.assign(cluster, expected);
}

async function repair(metadata: Metadata, census: Census, setCounts: () => Promise<void>): Promise<void> {
  const { file } = metadata;
  const hasDirtyBit = file.header.version === 3;
  if (hasDirtyBit && !file.header.dirty) await file.update({ dirty: true });
  await setCounts();
  await mendFlags(metadata, census.references);
  await metadata.writeAll();
  if (hasDirtyBit) await file.update({ dirty: false });
  await metadata.reload();
}

/** No count and no other entry depends on a bitmap that can be mended, so each is mended by itself. */
async function mendBitmaps(metadata: Metadata, { mendable }: Census): Promise<void> {
  if (mendable.length === 0) return;
  const { hasDataFile } = metadata.file;
  await walkTables(metadata.file, mendable, (_, view) => {
    for (let at = 0; at < view.byteLength; at += extendedEntryBytes) {
      if (bitmapProblem(view, at, hasDataFile) !== undefined && isMendable(view, at, hasDataFile))
        mendBitmap(view, at);
    }
    return true;
  });
  await metadata.file.storage.flush();
  await metadata.reload();
}

async function mendFlags(metadata: Metadata, references: References): Promise<void> {
  const { file, mapping } = metadata;
  const isOne = (hostOffset: number): boolean =>
    references.get(hostOffset / file.geometry.clusterBytes) === 1;
  const tables = await soundActiveTables(file, references);
  for (const { l1Index, hostOffset, hi } of tables) {
    if (((hi & copiedFlag) !== 0) !== isOne(hostOffset))
      mapping.setL1(l1Index, hostOffset, isOne(hostOffset));
  }
  await walkTables(file, tables, (_, view) => {
    let changed = false;
    forEachCluster(file, view, (hi, lo, at) => {
      const hostOffset = hostOffsetOf(hi, lo & ~zeroFlag);
      const isSole = file.hasDataFile || isOne(hostOffset);
      if (hostOffset === 0 || ((hi & copiedFlag) !== 0) === isSole) return;
      view.setUint32(at, (hi ^ copiedFlag) >>> 0);
      changed = true;
    });
    return changed;
  });
}
