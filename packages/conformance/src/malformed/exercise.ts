import assert from 'node:assert/strict';
import { type CheckReport, CowlabError, type Disk, isCowlabError, openDisk } from '@cowlab/core';
import { assertSameBytes } from '../expect.ts';
import { pattern } from '../random.ts';
import type { ConformanceSubject } from '../subject.ts';
import { amended, amendmentsOf } from '../amendments.ts';
import { backingFile, type Base, commitIn, type Files, filesOf, folderWith, openIn } from './base.ts';
import { BoundedFolder, type Bounds } from './bounded-folder.ts';

/*
 * A damaged image in use, in every way there is. What must hold, whatever was damaged:
 *
 *     every failure      a CowlabError; of ERR_CORRUPT and ERR_UNSUPPORTED, with file and field
 *     every phase        within the bounds on storage calls, bytes and the size of one piece; nothing left open
 *     a refused open     has changed nothing; neither has reading
 *     check finds no corruption  →  everything can be read, the same when opened for writing; what is written is
 *                                   there after reopening, the rest as before, and check finds none again
 *     repair leaves none         →  the same, and check finds nothing at all
 *     damage under a checksum that was not made right  →  each sector that is read is one that once was there
 */

const bounds: Bounds = { calls: 50_000, bytes: 512 * 1024 * 1024, piece: 65 * 1024 * 1024 };

const pieceBytes = 32 * 1024;
const sectorBytes = 512;
/** Of a disk that says it is larger, this much of its start is read, and its last piece. */
const mostBytes = 512 * 1024;
const most = 200;

/** What reading gave: bytes by offset, and where it failed. */
interface View {
  readonly size: number;
  readonly pieces: ReadonlyMap<number, Uint8Array | CowlabError>;
}

export interface Outcome {
  /** The code that opening read-only ended with; undefined when it opened. */
  readonly refused?: string;
  readonly isClean: boolean;
  readonly isRepaired: boolean;
}

/** What came of a call: its result, or the error with a code that it ended with. Any other error is thrown on. */
async function coded<T>(what: string, call: () => T | Promise<T>): Promise<T | CowlabError> {
  try {
    return await call();
  } catch (error) {
    if (!(error instanceof CowlabError))
      throw new Error(`${what}: an error without a code`, { cause: error });
    if (error.code === 'ERR_CORRUPT' || error.code === 'ERR_UNSUPPORTED') {
      const { file, field } = error.data;
      const isNamed = typeof file === 'string' && typeof field === 'string';
      assert.ok(isNamed, `${what}: ${error.code} names no file and field: ${error.message}`);
    }
    return error;
  }
}

const failed = (result: unknown): result is CowlabError => result instanceof CowlabError;

async function viewOf(disk: Disk, what: string): Promise<View> {
  const { size } = disk;
  const pieces = new Map<number, Uint8Array | CowlabError>();
  const offsets = new Set<number>();
  for (let at = 0; at < Math.min(size, mostBytes); at += pieceBytes) offsets.add(at);
  if (size > mostBytes) offsets.add(size - pieceBytes);
  for (const at of offsets) {
    const target = new Uint8Array(Math.min(pieceBytes, size - at));
    const error = await coded(`${what}: read at ${at}`, () => disk.read(at, target));
    pieces.set(at, failed(error) ? error : target);
  }
  return { size, pieces };
}

async function usedFirst<T>(items: AsyncIterable<T>): Promise<number> {
  let count = 0;
  for await (const _ of items) {
    count += 1;
    if (count === most) break;
  }
  return count;
}

function isClean(report: CheckReport | CowlabError): boolean {
  return !failed(report) && report.corruptions === 0;
}

class Exercise {
  readonly #subject: ConformanceSubject;
  readonly #base: Base;
  readonly #files: Files;
  /** Bytes were damaged that a checksum covers, which still tells. */
  readonly #isTold: boolean;

  constructor(base: Base, files: Files, isTold: boolean) {
    this.#subject = base.recipe.subject;
    this.#base = base;
    this.#files = files;
    this.#isTold = isTold;
  }

  async run(): Promise<Outcome> {
    const seen = await this.#phase('read-only', (folder) => this.#readOnly(folder));
    const canWrite = this.#subject.driver.capabilities.write;
    if (canWrite) await this.#phase('writing', (folder) => this.#writing(folder, seen));
    if (canWrite) await this.#phase('verbs', (folder) => this.#verbs(folder, seen));
    const isRepaired = canWrite ? await this.#phase('repair', (folder) => this.#repair(folder)) : false;
    const isWhole = seen.view !== undefined && seen.isClean;
    return { ...(seen.refused && { refused: seen.refused }), isClean: isWhole, isRepaired };
  }

  /** One opening after another of a fresh copy, within the bounds. */
  async #phase<T>(what: string, run: (folder: BoundedFolder) => Promise<T>): Promise<T> {
    const folder = new BoundedFolder(await folderWith(this.#files), bounds);
    try {
      const result = await run(folder);
      if (folder.exceeded !== undefined) throw folder.exceeded;
      assert.deepEqual(folder.openFiles, [], `${what}: files that were left open`);
      return result;
    } catch (error) {
      throw folder.exceeded ?? error;
    }
  }

  async #assertUnchanged(folder: BoundedFolder, what: string): Promise<void> {
    const after = await filesOf(folder.inner);
    assert.deepEqual([...after.keys()], [...this.#files.keys()].toSorted(), `${what}: the files`);
    for (const [name, bytes] of after) {
      assertSameBytes(bytes, this.#files.get(name) as Uint8Array, `${what}: the file ${name}`);
    }
  }

  async #readOnly(folder: BoundedFolder): Promise<{ view?: View; refused?: string; isClean: boolean }> {
    const disk = await coded('open read-only', () => openIn(this.#subject, folder, true));
    if (failed(disk)) {
      await this.#assertUnchanged(folder, 'a refused open');
      return { refused: disk.code, isClean: false };
    }
    const view = await viewOf(disk, 'read-only');
    await coded('extents', () => usedFirst(disk.extents()));
    await coded('info', () => disk.info());
    const report = await coded('check', () => disk.check());
    const clean = isClean(report);
    if (clean) this.#assertReadable(view, 'check found nothing');
    if (this.#isTold) this.#assertKnown(view, 'damage under a checksum');
    await this.#snapshots(disk, clean);
    await coded('close', () => disk.close());
    await this.#assertUnchanged(folder, 'reading');
    return { view, isClean: clean };
  }

  async #snapshots(disk: Disk, clean: boolean): Promise<void> {
    const list = await coded('list', () => disk.snapshots.list());
    if (failed(list)) return;
    for (const { name } of list.slice(0, 4)) {
      const snapshot = await coded('open a snapshot', () => disk.snapshots.open(name));
      if (failed(snapshot)) {
        assert.ok(!clean, `check found nothing, and snapshot ${name} does not open: ${snapshot.message}`);
        continue;
      }
      const view = await viewOf(snapshot, `snapshot ${name}`);
      if (clean) this.#assertReadable(view, `check found nothing, and snapshot ${name}`);
      if (this.#isTold) this.#assertKnown(view, `damage under a checksum, snapshot ${name}`);
      await coded('close a snapshot', () => snapshot.close());
    }
    const [first, second] = list;
    if (first === undefined || !disk.capabilities.diff) return;
    await coded('diff', () => usedFirst(disk.snapshots.diff(first.name)));
    if (second !== undefined)
      await coded('diff of snapshots', () => usedFirst(disk.snapshots.diff(first.name, second.name)));
  }

  #assertReadable({ pieces }: View, what: string): void {
    for (const [at, piece] of pieces) {
      if (!failed(piece) || this.#subject.unchecked?.includes(piece.data.field ?? '') === true) continue;
      // A backing is an image of its own, with a check of its own.
      if (piece.data.file === backingFile) continue;
      assert.fail(`${what}, but reading at ${at} fails: ${piece.message}`);
    }
  }

  /** Each sector is one that the guest has had there at some time. */
  #assertKnown({ pieces }: View, what: string): void {
    for (const [at, piece] of pieces) {
      if (failed(piece)) continue;
      for (let within = 0; within < piece.length; within += sectorBytes) {
        const sector = piece.subarray(within, within + sectorBytes);
        const place = at + within;
        const isKnown =
          this.#base.states.some(
            (state) => Buffer.compare(sector, state.subarray(place, place + sectorBytes)) === 0,
          ) || sector.every((byte) => byte === 0);
        assert.ok(isKnown, `${what}: the sector at ${place} was never there`);
      }
    }
  }

  async #writing(folder: BoundedFolder, seen: { view?: View; isClean: boolean }): Promise<void> {
    const disk = await coded('open', () => openIn(this.#subject, folder, false));
    if (failed(disk)) {
      await this.#assertUnchanged(folder, 'a refused open for writing');
      return;
    }
    const before = await viewOf(disk, 'opened for writing');
    if (seen.isClean && seen.view !== undefined) assertSameView(before, seen.view, 'opened for writing');
    const expected = await this.#change(disk, before);
    const again = await coded('open again', () => openIn(this.#subject, folder, true));
    if (!seen.isClean || expected === undefined) {
      if (!failed(again)) await coded('close', () => again.close());
      return;
    }
    if (failed(again))
      assert.fail(`check found nothing, and after a write it does not open: ${again.message}`);
    assertSameView(await viewOf(again, 'reopened'), expected, 'after a write and a reopening');
    const report = await coded('check', () => again.check());
    assert.ok(isClean(report), `check found nothing, and after a write: ${problemOf(report)}`);
    await again.close();
  }

  /** What changes an image and leaves its disk: another backing, other options, a commit. */
  async #verbs(folder: BoundedFolder, seen: { view?: View; isClean: boolean }): Promise<void> {
    const { driver, drivers = [driver] } = this.#subject;
    const { capabilities } = driver;
    const results: unknown[] = [];
    const isBaseClean = await this.#isBaseClean(folder);
    for (const amendment of amendmentsOf(driver)) {
      results.push(await coded('amend', () => amended(folder, driver, drivers, amendment)));
    }
    if (capabilities.empty) results.push(await coded('commit', () => commitIn(this.#subject, folder)));
    if (capabilities.changeBacking) {
      const disk = await coded('open', () => openIn(this.#subject, folder, false));
      if (failed(disk)) return;
      let steps = 0;
      const aborted = new AbortController();
      // Of a disk that says it is large, not all has to be walked.
      const onProgress = (): void => void (++steps === most && aborted.abort());
      const { signal } = aborted;
      results.push(await coded('rebase', () => disk.rebase(null, { signal, onProgress })));
      results.push(await coded('close', () => disk.close()));
    }
    if (!seen.isClean || !isBaseClean || seen.view === undefined) return;
    const again = await coded('open again', () => openIn(this.#subject, folder, true));
    if (failed(again)) assert.fail(`check found nothing, and after the verbs: ${again.message}`);
    assertSameView(await viewOf(again, 'after the verbs'), seen.view, 'after the verbs');
    if (!results.some(failed)) {
      const report = await coded('check', () => again.check());
      assert.ok(isClean(report), `check found nothing, and after the verbs: ${problemOf(report)}`);
    }
    await again.close();
  }

  /** A commit writes to the backing, which has a check of its own. */
  async #isBaseClean(folder: BoundedFolder): Promise<boolean> {
    if (!this.#files.has(backingFile)) return true;
    const { driver } = this.#subject;
    const place = { folder, file: backingFile };
    const options = { drivers: [driver], format: driver.name, readOnly: true };
    const base = await coded('open the backing', () => openDisk(place, options));
    if (failed(base)) return false;
    const report = await coded('check of the backing', () => base.check());
    await coded('close the backing', () => base.close());
    return isClean(report);
  }

  /** Writes, discards, keeps a snapshot, writes again, closes. Undefined when one of it failed. */
  async #change(disk: Disk, before: View): Promise<View | undefined> {
    const { size } = disk;
    const pieces = new Map(before.pieces);
    const results: unknown[] = [];
    const write = async (offset: number, tag: number): Promise<void> => {
      const bytes = pattern(tag, Math.min(3000, size - offset));
      results.push(await coded(`write at ${offset}`, () => disk.write(offset, bytes)));
      put(pieces, offset, bytes);
    };
    await write(0, 501);
    results.push(await coded('flush', () => disk.flush()));
    const name = 'of the lab';
    if (disk.capabilities.snapshots !== 'none')
      results.push(await coded('create a snapshot', () => disk.snapshots.create(name)));
    await write(Math.floor(size / 2), 502);
    await write(Math.max(0, size - 3000), 503);
    const zeroes = Math.min(size, 9000);
    results.push(await coded('write zeroes', () => disk.writeZeroes(0, zeroes)));
    put(pieces, 0, new Uint8Array(zeroes));
    results.push(await coded('flush', () => disk.flush()));
    if (disk.capabilities.snapshots !== 'none')
      results.push(await coded('delete a snapshot', () => disk.snapshots.delete(name)));
    results.push(await coded('close', () => disk.close()));
    return results.some(failed) ? undefined : { size, pieces };
  }

  async #repair(folder: BoundedFolder): Promise<boolean> {
    const disk = await coded('open', () => openIn(this.#subject, folder, false));
    if (failed(disk)) return false;
    const report = await coded('check with repair', () => disk.check({ repair: 'all' }));
    if (failed(report) || report.corruptions + report.leaks > 0) {
      await coded('close', () => disk.close());
      return false;
    }
    const again = await disk.check();
    assert.equal(again.corruptions + again.leaks, 0, `repaired, but then: ${problemOf(again)}`);
    const view = await viewOf(disk, 'repaired');
    this.#assertReadable(view, 'repaired');
    await disk.close();
    const reader = await openIn(this.#subject, folder, true);
    assertSameView(await viewOf(reader, 'repaired and reopened'), view, 'repaired and reopened');
    const last = await reader.check();
    assert.equal(last.corruptions + last.leaks, 0, `repaired and reopened, but then: ${problemOf(last)}`);
    await reader.close();
    return report.repaired > 0;
  }
}

function problemOf(report: CheckReport | CowlabError): string {
  if (isCowlabError(report)) return report.message;
  const [first] = report.findings;
  return `${first?.severity}: ${first?.structure}: ${first?.message}`;
}

/** Puts bytes into the pieces that have them. */
function put(pieces: Map<number, Uint8Array | CowlabError>, offset: number, bytes: Uint8Array): void {
  for (const [at, piece] of pieces) {
    if (failed(piece)) continue;
    const start = Math.max(at, offset);
    const end = Math.min(at + piece.length, offset + bytes.length);
    if (start >= end) continue;
    const changed = piece.slice();
    changed.set(bytes.subarray(start - offset, end - offset), start - at);
    pieces.set(at, changed);
  }
}

function assertSameView(found: View, expected: View, what: string): void {
  assert.equal(found.size, expected.size, `${what}: the size`);
  for (const [at, piece] of expected.pieces) {
    const other = found.pieces.get(at);
    if (failed(piece) || other === undefined) continue;
    if (failed(other)) assert.fail(`${what}: reading at ${at} fails: ${other.message}`);
    assertSameBytes(other, piece, `${what}: from ${at}`);
  }
}

/** Uses a damaged copy of a base. Throws when something happens that must not. */
export function exercise(base: Base, files: Files, isTold: boolean): Promise<Outcome> {
  return new Exercise(base, files, isTold).run();
}
