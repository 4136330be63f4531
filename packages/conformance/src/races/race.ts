import assert from 'node:assert/strict';
import { type Disk, isCowlabError, MemoryFolder, type SnapshotInfo } from '@cowlab/core';
import { DelayedFolder } from '../delayed-folder.ts';
import { assertSameBytes, failureOf } from '../expect.ts';
import { type Lab, mainFile } from '../lab.ts';
import { Random } from '../random.ts';
import { hasSnapshots } from '../subject.ts';
import { contentsOf } from '../twin.ts';
import { isExplained, type SectorEvent } from './sector-history.ts';

/*
 * Many requests under way at once, on a storage whose completions come in any order. Every write has a value of its
 * own; a clock counts calls and returns; and what reads have seen of each sector must be explained by some order
 * (sector-history.ts).
 *
 *     snapshot create    reads every sector: those are what the snapshot shows, then and always
 *     snapshot apply     writes every sector, with what the snapshot shows
 *     discard, zeroes    write zeros
 *     resize             moves the disk's end to and fro past the sectors that are looked at
 *     flush, check, diff, rename, delete, populate, info    change nothing that is looked at
 */

const sectorBytes = 512;
const strides = 10;
/** Past the sectors that are looked at. */
const spareStrides = 4;

export interface RaceOptions {
  readonly requests: number;
  /** How many at once. */
  readonly atOnce: number;
}

export interface RaceCounts {
  requests: number;
  reads: number;
  writes: number;
  snapshots: number;
}

interface Kept {
  readonly info: SnapshotInfo;
  readonly bytes: Uint8Array;
}

/** A write of a value: each sector says which, and where it belongs. */
function bytesOf(value: number, offset: number, length: number): Uint8Array {
  const words = new Uint32Array(length / 4);
  for (let index = 0; index < words.length; index += 2) {
    words[index] = value;
    words[index + 1] = Math.floor((offset + index * 4) / sectorBytes);
  }
  return new Uint8Array(words.buffer);
}

/** The value of a sector; fails when it is a mixture, or belongs elsewhere. */
function valueOf(bytes: Uint8Array, sector: number, at: number): number {
  const words = new Uint32Array(bytes.slice(at, at + sectorBytes).buffer);
  const [value, place] = [words[0]!, words[1]!];
  const isWhole = words.every((word, index) => word === (index % 2 === 0 ? value : place));
  assert.ok(isWhole, `sector ${sector} is a mixture`);
  assert.equal(place, value === 0 ? 0 : sector, `the place of what sector ${sector} shows`);
  return value;
}

/** What a request may fail with because others were quicker. */
function isRivalry(error: unknown): boolean {
  const codes = ['ERR_SNAPSHOT_NOT_FOUND', 'ERR_SNAPSHOT_EXISTS', 'ERR_SNAPSHOT_LIMIT', 'ERR_BUSY'] as const;
  return error instanceof RangeError || codes.some((code) => isCowlabError(error, code));
}

class Race {
  readonly counts: RaceCounts = { requests: 0, reads: 0, writes: 0, snapshots: 0 };
  readonly #lab: Lab;
  readonly #disk: Disk;
  readonly #random: Random;
  readonly #looked: number;
  readonly #events: SectorEvent[][];
  readonly #kept = new Map<string, Kept>();
  #clock = 0;
  #values = 0;

  constructor(lab: Lab, disk: Disk, random: Random) {
    this.#lab = lab;
    this.#disk = disk;
    this.#random = random;
    this.#looked = strides * lab.stride;
    this.#events = Array.from({ length: this.#looked / sectorBytes }, () => []);
  }

  async run({ requests, atOnce }: RaceOptions): Promise<void> {
    const work = async (): Promise<void> => {
      while (this.counts.requests < requests) {
        this.counts.requests += 1;
        const failure = await failureOf(() => this.#request());
        if (failure !== undefined && !isRivalry(failure)) throw failure;
      }
    };
    const workers = await Promise.allSettled(Array.from({ length: atOnce }, work));
    for (const worker of workers) if (worker.status === 'rejected') throw worker.reason;
    await this.#read(0, this.#looked);
  }

  /** Fails unless every sector is explained. */
  verify(): void {
    for (const [sector, events] of this.#events.entries()) {
      assert.ok(isExplained(events, 0), `nothing explains what was seen of sector ${sector}`);
    }
  }

  /** The snapshots that are there, by a list that nobody changes any more. */
  async verifySnapshots(disk: Disk): Promise<void> {
    for (const { id, name } of await disk.snapshots.list()) {
      const kept = this.#kept.get(id);
      assert.ok(kept !== undefined, `there is a snapshot ${name}`);
      const snapshot = await disk.snapshots.open(id);
      assertSameBytes(await this.#head(snapshot), kept.bytes, `snapshot ${name}`);
      await snapshot.close();
    }
  }

  #request(): Promise<void> {
    const choice = this.#random.below(100);
    if (choice < 34) return this.#write();
    if (choice < 60) return this.#readSome();
    if (choice < 70) return this.#clear();
    if (choice < 80) return Promise.resolve(this.#disk.flush());
    if (choice < 90 && hasSnapshots(this.#lab.capabilities)) return this.#onSnapshots();
    return this.#onTheWhole();
  }

  async #write(): Promise<void> {
    const [offset, length] = this.#range(sectorBytes);
    this.#values += 1;
    this.counts.writes += 1;
    const value = this.#values;
    const bytes = bytesOf(value, offset, length);
    await this.#noting(
      'write',
      offset,
      length,
      () => value,
      () => this.#disk.write(offset, bytes),
    );
  }

  async #readSome(): Promise<void> {
    this.counts.reads += 1;
    return this.#read(...this.#range(sectorBytes));
  }

  async #read(offset: number, length: number): Promise<void> {
    const bytes = new Uint8Array(length);
    const value = (sector: number): number => valueOf(bytes, sector, sector * sectorBytes - offset);
    await this.#noting('read', offset, length, value, () => this.#disk.read(offset, bytes));
  }

  async #clear(): Promise<void> {
    const isDiscard = this.#random.below(2) === 0;
    const [offset, length] = this.#range(isDiscard ? this.#disk.unitBytes : sectorBytes);
    const call = isDiscard ? 'discard' : 'writeZeroes';
    await this.#noting(
      'write',
      offset,
      length,
      () => 0,
      () => this.#disk[call](offset, length),
    );
  }

  async #onSnapshots(): Promise<void> {
    const { snapshots } = this.#disk;
    const known = [...this.#kept.values()];
    const choice = known.length === 0 ? 0 : this.#random.below(10);
    if (choice < 3) return this.#create();
    const { info, bytes } = this.#random.pick(known);
    if (choice < 5) return snapshots.delete(info.id);
    if (choice < 6) return this.#apply(info, bytes);
    if (choice < 7 && this.#lab.capabilities.renameSnapshots) return snapshots.rename(info.id, this.#name());
    if (choice < 8 && this.#lab.capabilities.diff) return this.#diff(info);
    const snapshot = await snapshots.open(info.id);
    try {
      assertSameBytes(await this.#head(snapshot), bytes, `snapshot ${info.name}`);
    } finally {
      await snapshot.close();
    }
  }

  /** What it shows is a read of everything at the time of the call. */
  async #create(): Promise<void> {
    this.counts.snapshots += 1;
    const called = this.#tick();
    const info = await this.#disk.snapshots.create(this.#name());
    const returned = this.#tick();
    const snapshot = await this.#disk.snapshots.open(info.id);
    const bytes = await this.#head(snapshot);
    await snapshot.close();
    this.#note(
      'read',
      0,
      bytes.length,
      (sector) => valueOf(bytes, sector, sector * sectorBytes),
      called,
      returned,
    );
    this.#kept.set(info.id, { info, bytes });
  }

  async #apply({ id }: SnapshotInfo, bytes: Uint8Array): Promise<void> {
    const value = (sector: number): number => valueOf(bytes, sector, sector * sectorBytes);
    await this.#noting('write', 0, bytes.length, value, () => this.#disk.snapshots.apply(id));
  }

  async #diff({ id }: SnapshotInfo): Promise<void> {
    let end = 0;
    for await (const { offset, length } of this.#disk.snapshots.diff(id)) {
      assert.ok(offset >= end && length > 0, 'differences in rising order');
      end = offset + length;
    }
  }

  async #onTheWhole(): Promise<void> {
    const { capabilities, stride } = this.#lab;
    const choice = this.#random.below(5);
    if (choice === 0) {
      const { corruptions } = await this.#disk.check();
      assert.equal(corruptions, 0, 'corruptions found between requests');
    } else if (choice === 1) await this.#disk.info();
    else if (choice === 2 && capabilities.resize !== 'none') {
      const size = this.#looked + this.#random.below(spareStrides) * stride;
      if (capabilities.resize === 'both' || size >= this.#disk.size) await this.#disk.resize(size);
    } else if (choice === 3) {
      // Nobody looks at these; they come and go with the disk's end.
      await this.#disk.write(
        this.#looked + this.#random.below(spareStrides) * stride,
        new Uint8Array(stride).fill(7),
      );
    } else if (capabilities.backing) await this.#disk.populate();
  }

  async #noting(
    kind: SectorEvent['kind'],
    offset: number,
    length: number,
    value: (sector: number) => number,
    run: () => unknown,
  ): Promise<void> {
    const called = this.#tick();
    await run();
    this.#note(kind, offset, length, value, called, this.#tick());
  }

  #note(
    kind: SectorEvent['kind'],
    offset: number,
    length: number,
    value: (sector: number) => number,
    called: number,
    returned: number,
  ): void {
    for (let sector = offset / sectorBytes; sector < (offset + length) / sectorBytes; sector++) {
      this.#events[sector]?.push({ kind, value: value(sector), called, returned });
    }
  }

  async #head(disk: Disk): Promise<Uint8Array> {
    const bytes = new Uint8Array(this.#looked);
    await disk.read(0, bytes);
    return bytes;
  }

  #range(step: number): [number, number] {
    const count = this.#looked / step;
    const length = 1 + this.#random.below(Math.min(count, Math.ceil((2 * this.#lab.stride) / step)));
    return [this.#random.below(count - length + 1) * step, length * step];
  }

  #name(): string {
    return `s${this.#tick()}`;
  }

  #tick(): number {
    this.#clock += 1;
    return this.#clock;
  }
}

/** One race by the lab's seed. Throws when something cannot be. */
export async function runRace(lab: Lab, seed: number, options: RaceOptions): Promise<RaceCounts> {
  const files = new MemoryFolder();
  await lab.create({ folder: files, file: mainFile, size: (strides + spareStrides) * lab.stride });
  const disk = await lab.open({ folder: new DelayedFolder(files, seed) });
  const race = new Race(lab, disk, new Random(seed));
  try {
    await race.run(options);
    race.verify();
    await race.verifySnapshots(disk);
  } catch (error) {
    await lab.closeAnyway(disk);
    throw error;
  }
  const bytes = await contentsOf(disk);
  assert.equal(await lab.closeAnyway(disk), undefined, 'close');
  const again = await lab.open({ folder: files, readOnly: true });
  assertSameBytes(await contentsOf(again), bytes, 'the disk after reopening');
  await race.verifySnapshots(again);
  await lab.assertClean(again);
  await lab.closeAnyway(again);
  return race.counts;
}
