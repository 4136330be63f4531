import { pattern, Random } from '@cowlab/conformance';
import { type Disk, MemoryFolder } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { contents, fileBytes, folderWith, KiB, makeImage, openImage } from './lab.ts';
import { crashes, Recorder } from './recorder.ts';

const size = 512 * KiB;
const steps = 60;

/** What the guest may count on, in the order in which it came to. `at` is a position in the recorder's log. */
type Event =
  | { readonly kind: 'issued' | 'flushed'; readonly at: number; readonly disk: Uint8Array }
  | {
      readonly kind: 'creating' | 'created';
      readonly at: number;
      readonly name: string;
      readonly disk: Uint8Array;
    }
  | { readonly kind: 'deleting' | 'deleted'; readonly at: number; readonly name: string };

/** A random guest, and what it saw. */
class Workload {
  readonly events: Event[] = [];
  readonly #disk: Disk;
  readonly #recorder: Recorder;
  readonly #random: Random;
  readonly #snapshots = new Map<string, Uint8Array>();
  #model: Uint8Array = new Uint8Array(size);
  #count = 0;

  constructor(disk: Disk, recorder: Recorder, random: Random) {
    this.#disk = disk;
    this.#recorder = recorder;
    this.#random = random;
  }

  async run(): Promise<void> {
    this.#note('flushed');
    for (let step = 0; step < steps; step++) await this.#step();
  }

  async #step(): Promise<void> {
    this.#count++;
    const choice = this.#random.below(20);
    if (choice < 9) return this.#write();
    if (choice < 11) return this.#discard();
    if (choice < 15) return this.#flush();
    if (choice < 17 || this.#snapshots.size === 0) return this.#create();
    if (choice < 18) return this.#apply();
    return this.#delete();
  }

  async #write(): Promise<void> {
    const offset = this.#random.below(size / 512 - 40) * 512;
    const bytes = pattern(this.#count, (1 + this.#random.below(this.#random.pick([4, 40]))) * 512);
    this.#model = this.#model.slice();
    this.#model.set(bytes, offset);
    this.#note('issued');
    await this.#disk.write(offset, bytes);
  }

  async #discard(): Promise<void> {
    const offset = this.#random.below(100) * 4 * KiB;
    const length = (1 + this.#random.below(28)) * 4 * KiB;
    this.#model = this.#model.slice().fill(0, offset, offset + length);
    this.#note('issued');
    await this.#disk.discard(offset, length);
  }

  async #flush(): Promise<void> {
    await this.#disk.flush();
    this.#note('flushed');
  }

  async #create(): Promise<void> {
    const name = `s${this.#count}`;
    const disk = this.#model;
    this.events.push({ kind: 'creating', at: this.#at, name, disk });
    await this.#disk.snapshots.create(name);
    this.events.push({ kind: 'created', at: this.#at, name, disk });
    this.#snapshots.set(name, disk);
  }

  async #apply(): Promise<void> {
    const [name, disk] = this.#random.pick([...this.#snapshots]);
    this.#model = disk;
    this.#note('issued');
    await this.#disk.snapshots.apply(name);
    this.#note('flushed');
  }

  async #delete(): Promise<void> {
    const name = this.#random.pick([...this.#snapshots.keys()]);
    this.#snapshots.delete(name);
    this.events.push({ kind: 'deleting', at: this.#at, name });
    await this.#disk.snapshots.delete(name);
    this.events.push({ kind: 'deleted', at: this.#at, name });
  }

  get #at(): number {
    return this.#recorder.log.length;
  }

  #note(kind: 'issued' | 'flushed'): void {
    this.events.push({ kind, at: this.#at, disk: this.#model });
  }
}

/** The states that each sector of the disk may show after a crash at `position`. */
function allowedAt(events: readonly Event[], position: number): Uint8Array[] {
  let allowed: Uint8Array[] = [];
  for (const event of events) {
    if (event.kind === 'flushed' && event.at <= position) allowed = [event.disk];
    else if (event.kind === 'issued' && event.at < position) allowed.push(event.disk);
  }
  return allowed;
}

function snapshotsAt(
  events: readonly Event[],
  position: number,
): { must: Set<string>; may: Map<string, Uint8Array> } {
  const must = new Set<string>();
  const may = new Map<string, Uint8Array>();
  for (const event of events) {
    if (event.kind === 'creating' && event.at < position) may.set(event.name, event.disk);
    else if (event.kind === 'created' && event.at <= position) must.add(event.name);
    else if (event.kind === 'deleting' && event.at < position) must.delete(event.name);
    else if (event.kind === 'deleted' && event.at <= position) may.delete(event.name);
  }
  return { must, may };
}

function firstWrongSector(found: Uint8Array, allowed: readonly Uint8Array[]): number {
  for (let at = 0; at < found.length; at += 512) {
    const sector = Buffer.from(found.buffer, at, 512);
    if (!allowed.some((disk) => sector.equals(disk.subarray(at, at + 512)))) return at;
  }
  return -1;
}

async function examine(bytes: Uint8Array, events: readonly Event[], position: number): Promise<void> {
  const where = `crash at ${position}`;
  const disk = await openImage(await folderWith(bytes));
  const report = await disk.check();
  expect(report.findings, where).toEqual([]);
  expect(firstWrongSector(await contents(disk), allowedAt(events, position)), where).toBe(-1);
  const { must, may } = snapshotsAt(events, position);
  const names = (await disk.snapshots.list()).map(({ name }) => name);
  for (const name of must) expect(names, where).toContain(name);
  for (const name of names) {
    const snapshot = await disk.snapshots.open(name);
    const kept = may.get(name);
    expect(kept, `${where}: ${name}`).toBeDefined();
    expect(firstWrongSector(await contents(snapshot), [kept!]), `${where}: ${name}`).toBe(-1);
    await snapshot.close();
  }
  await disk.close();
}

describe('P9: after power loss at any write, with any part of what was in flight', () => {
  it.each([1, 2, 3, 4])(
    'check is clean, what was flushed is there, snapshots are whole: history %i',
    async (seed) => {
      const inner = new MemoryFolder();
      await makeImage(inner, { size });
      const start = await fileBytes(inner);
      const recorder = await Recorder.on(inner);
      const disk = await openImage(recorder);
      const random = new Random(seed);
      const workload = new Workload(disk, recorder, random);
      await workload.run();
      await disk.close();
      let examined = 0;
      for (const { position, bytes } of crashes(start, recorder, random, 2)) {
        await examine(bytes, workload.events, position);
        examined++;
      }
      expect(examined).toBeGreaterThan(steps);
    },
  );
});

describe('a resize that a power loss interrupts', () => {
  it.each<[string, number]>([
    ['shrinks to a chunk', 128 * KiB],
    ['shrinks into a block', 200 * KiB + 512],
    ['grows', 3 * size],
  ])('has happened wholly or not at all: it %s', async (_, newSize) => {
    const inner = await folderWith(pattern(1, 300 * KiB), 'base.raw');
    await makeImage(inner, { size, backing: 'base.raw' });
    const setUp = await openImage(inner);
    await setUp.write(100 * KiB, pattern(2, 150 * KiB));
    const before = await contents(setUp);
    await setUp.close();
    const after = new Uint8Array(newSize);
    after.set(before.subarray(0, newSize));
    const start = await fileBytes(inner);
    const recorder = await Recorder.on(inner);
    const disk = await openImage(recorder);
    await disk.resize(newSize);
    const done = recorder.log.length;
    await disk.close();
    const sizes = new Set<number>();
    for (const { position, bytes } of crashes(start, recorder, new Random(newSize), 3)) {
      const folder = await folderWith(bytes);
      const base = await folder.create('base.raw');
      await base.write(0, pattern(1, 300 * KiB));
      const survivor = await openImage(folder);
      const expected = survivor.size === size && position < done ? before : after;
      expect(Buffer.from(await contents(survivor)).equals(expected), `crash at ${position}`).toBe(true);
      expect((await survivor.check()).findings).toEqual([]);
      sizes.add(survivor.size);
      await survivor.close();
    }
    expect(sizes).toEqual(new Set([size, newSize]));
  });
});
