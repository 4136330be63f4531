import {
  Bitset,
  type CheckOptions,
  type CheckReport,
  CowlabError,
  type Finding,
  isCowlabError,
} from '@cowlab/core';
import { type Catalog } from './catalog.ts';
import { markData, markLog, regionsOf } from './front-use.ts';
import type { FvdImage } from './image.ts';
import { logChunkOf, type SnapshotEntry, ZERO } from './layout.ts';
import { readState, type State } from './tree.ts';

/*
 * Recomputes the bookkeeping and compares.
 *
 *   static counts   from every snapshot's root up                         on disk
 *   free bitmap     from the front's table, with all the rules of open    in memory
 *   purposes        no chunk is log for one state and data for another
 *   room            nothing lies from logOffset or packNext to the end of its chunk, and no snapshot has blocks from
 *                   tailFrom on: the front writes there
 *
 * Repair rewrites the counts. What else is wrong is in a table itself, and nothing in the image tells what was right.
 */

const MAX_FINDINGS = 1000;

export class Findings {
  readonly list: Finding[] = [];
  readonly totals = { corruption: 0, leak: 0, repaired: 0 };
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  add(severity: Finding['severity'], structure: string, message: string, repaired = false): void {
    this.totals[repaired ? 'repaired' : severity]++;
    if (this.list.length >= MAX_FINDINGS) return;
    this.list.push({ severity, structure, message, file: this.#file, repaired });
  }
}

export async function checkImage(image: FvdImage, options: CheckOptions): Promise<CheckReport> {
  const findings = new Findings(image.storage.name);
  // Until a doubt is settled, what a failed publication has set aside counts as in use.
  if (image.publisher.isInDoubt) await image.flush();
  const catalog = await image.snapshots.readCatalog();
  const { hostChunks } = image.space;
  const purposes = { log: new Bitset(hostChunks), data: new Bitset(hostChunks) };
  markLog(image.state, purposes.log);
  markData(image.state, purposes.data);
  const expected = await countReached(image, catalog, purposes, options, findings);
  checkFront(image, findings);
  for (let chunk = purposes.log.nextSet(0); chunk >= 0; chunk = purposes.log.nextSet(chunk + 1)) {
    if (purposes.data.get(chunk)) {
      findings.add('corruption', 'table', `host chunk ${chunk} holds data of one state and pages of another`);
    }
  }
  // Counts recomputed from a snapshot that cannot be read would be wrong themselves.
  const readable = findings.totals.corruption === 0;
  await checkCounts(image, catalog, expected, readable ? options.repair : undefined, findings);
  return {
    corruptions: findings.totals.corruption,
    leaks: findings.totals.leak,
    repaired: findings.totals.repaired,
    findings: findings.list,
    allocatedBytes: allocatedBytes(image),
    imageEndBytes: hostChunks * image.geometry.chunkBytes,
  };
}

/** How many snapshots reach each host chunk. Those of one root are one state: it is read once. */
async function countReached(
  image: FvdImage,
  { directory }: Catalog,
  purposes: { readonly log: Bitset; readonly data: Bitset },
  { signal, onProgress }: CheckOptions,
  findings: Findings,
): Promise<Uint16Array> {
  const { hostChunks } = image.space;
  const expected = new Uint16Array(hostChunks);
  const total = directory.snapshots.length;
  let done = 0;
  for (const alike of byRoot(directory.snapshots)) {
    await new Promise((resolve) => setImmediate(resolve));
    if (signal?.aborted === true) {
      const about = { file: image.storage.name };
      throw new CowlabError('ERR_ABORTED', `${image.storage.name}: check: aborted`, about, signal.reason);
    }
    const state = await readSnapshots(image, alike, findings);
    if (state !== undefined) {
      const log = new Bitset(hostChunks);
      const data = new Bitset(hostChunks);
      markLog(state, log);
      markData(state, data);
      log.words.forEach((word, at) => {
        purposes.log.words[at]! |= word;
        purposes.data.words[at]! |= data.words[at]!;
        log.words[at]! |= data.words[at]!;
      });
      for (let chunk = log.nextSet(0); chunk >= 0; chunk = log.nextSet(chunk + 1)) {
        expected[chunk]! += alike.length;
      }
    }
    done += alike.length;
    onProgress?.({ done, total });
  }
  return expected;
}

/** Snapshots between which nobody wrote have one root. */
function byRoot(snapshots: readonly SnapshotEntry[]): Iterable<readonly SnapshotEntry[]> {
  const alike = new Map<string, SnapshotEntry[]>();
  for (const snapshot of snapshots) {
    const { root, size } = snapshot;
    const key = `${root.offset} ${root.bytes} ${size}`;
    const others = alike.get(key);
    if (others === undefined) alike.set(key, [snapshot]);
    else others.push(snapshot);
  }
  return alike.values();
}

/** The state of snapshots of one root; a finding for each of them when it cannot be read. */
async function readSnapshots(
  image: FvdImage,
  snapshots: readonly SnapshotEntry[],
  findings: Findings,
): Promise<State | undefined> {
  const { storage, geometry, publisher, space } = image;
  const { root, size } = snapshots[0]!;
  try {
    const state = await readState(storage, root, size, geometry, publisher.superblock.hostChunks);
    space.survey(state, storage.name);
    if (isInTheWay(state, image) || hasBlocks(state, space.tailFrom)) {
      const problem = `${JSON.stringify(snapshots[0]!.name)} lies where the front goes on`;
      findings.add('corruption', 'snapshot', problem);
    }
    return state;
  } catch (error) {
    if (!isCowlabError(error, 'ERR_CORRUPT')) throw error;
    for (const { name } of snapshots) {
      findings.add('corruption', 'snapshot', `${JSON.stringify(name)}: ${error.message}`);
    }
    return undefined;
  }
}

/** Whether a state has something where the next page or packed block goes, or where the front may overwrite. */
function isInTheWay(state: State, { publisher, space }: FvdImage): boolean {
  const { chunkBytes } = state.table.geometry;
  const { logOffset } = publisher.superblock;
  const logEnd = (logChunkOf(publisher.superblock) + 1) * chunkBytes;
  const inLog = regionsOf(state).some(({ offset, bytes }) => offset < logEnd && offset + bytes > logOffset);
  return inLog || hasBlocks(state, space.packNext);
}

/** Whether a state has blocks between this host block and the end of its chunk; 0 is no block. */
function hasBlocks({ table }: State, from: number): boolean {
  if (from === 0) return false;
  const { blocksPerChunk } = table.geometry;
  const hostChunk = Math.floor(from / blocksPerChunk);
  const end = (hostChunk + 1) * blocksPerChunk;
  let found = false;
  const visit = (_start: number, count: number, host: number): void => {
    found ||= host > ZERO && host < end && host + count > from;
  };
  for (let chunk = 0; chunk < table.chunks; chunk++) {
    const wholes = table.wholeRun(chunk);
    if (wholes > 0) {
      const first = table.whole(chunk);
      found ||= first <= hostChunk && hostChunk < first + wholes;
      chunk += wholes - 1;
    } else if (table.isSplit(chunk)) table.eachRun(chunk, visit);
  }
  return found;
}

/** The bits and counts that the front's life has left in memory must be those of its table. */
function checkFront(image: FvdImage, findings: Findings): void {
  const { space, state, storage } = image;
  try {
    const use = space.survey(state, storage.name);
    if (isInTheWay(state, image)) {
      findings.add('corruption', 'table', 'the front has something where its next page or block goes');
    }
    for (let chunk = use.chunks.nextSet(0); chunk >= 0; chunk = use.chunks.nextSet(chunk + 1)) {
      if (!space.isFront(chunk) || use.partial.get(chunk) !== space.blocksIn(chunk)) {
        findings.add('corruption', 'free bitmap', `host chunk ${chunk} is in use, but not counted so`);
      }
    }
  } catch (error) {
    if (!isCowlabError(error, 'ERR_CORRUPT')) throw error;
    findings.add('corruption', 'table', error.message);
  }
}

async function checkCounts(
  image: FvdImage,
  { directory, counts }: Catalog,
  expected: Uint16Array,
  repair: CheckOptions['repair'],
  findings: Findings,
): Promise<void> {
  const mended = expected.slice();
  const changed: number[] = [];
  expected.forEach((count, chunk) => {
    const recorded = counts[chunk] ?? 0;
    if (count === recorded) return;
    const severity = recorded > count ? 'leak' : 'corruption';
    const mends = repair === 'all' || (repair === 'leaks' && severity === 'leak');
    if (mends) changed.push(chunk);
    else mended[chunk] = recorded;
    const message = `host chunk ${chunk} is counted ${recorded} times, reached by ${count} snapshots`;
    findings.add(severity, 'refcount', message, mends);
  });
  if (changed.length === 0) return;
  // What a snapshot reaches must not look free while the repair takes space for itself.
  for (const chunk of changed) if (mended[chunk]! > 0) image.space.setStatic(chunk);
  await image.publish({ catalog: () => ({ directory, counts: mended }) });
  for (const chunk of changed) if (mended[chunk] === 0) image.space.clearStatic(chunk);
}

function allocatedBytes(image: FvdImage): number {
  const { table } = image.state;
  const { blocksPerChunk, blockBytes } = image.geometry;
  let blocks = 0;
  for (let chunk = 0; chunk < table.chunks; chunk++) {
    if (table.whole(chunk) > 0) blocks += blocksPerChunk;
    else if (table.isSplit(chunk)) {
      table.eachRun(chunk, (_start, count, host) => {
        if (host > ZERO) blocks += count;
      });
    }
  }
  return Math.min(image.size, blocks * blockBytes);
}
