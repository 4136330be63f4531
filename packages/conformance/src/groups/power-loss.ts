import assert from 'node:assert/strict';
import { type Disk, MemoryFolder } from '@cowlab/core';
import { CrashFolder } from '../crash-folder.ts';
import { assertOldOrNew, disksAt, type GuestEvent } from '../durability.ts';
import { assertSameBytes } from '../expect.ts';
import { type Lab, mainFile } from '../lab.ts';
import { pattern } from '../random.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import { contentsOf } from '../twin.ts';

/*
 * The durability contract. A random guest works; the power fails at every change and flush it caused, with all,
 * nothing and any part of what was in flight. Each image that is left
 *
 *     opens, read-only and for writing, to the same bytes
 *     has no corruption, and leaks only where the driver declares them
 *     shows, in each sector, what was last flushed or something that was written since
 *     has every snapshot whose create had returned, whole, and none whose delete had
 *     takes a write, a close and a check again
 */

const sectorBytes = 512;
const steps = 40;
/** States with any part of what was in flight, for each position. */
const torn = 2;

class Guest {
  readonly events: GuestEvent[] = [];
  readonly #lab: Lab;
  readonly #disk: Disk;
  readonly #folder: CrashFolder;
  readonly #snapshots = new Map<string, Uint8Array>();
  #model: Uint8Array;
  #count = 0;

  constructor(lab: Lab, disk: Disk, folder: CrashFolder) {
    this.#lab = lab;
    this.#disk = disk;
    this.#folder = folder;
    this.#model = new Uint8Array(disk.size);
    this.#note('flushed');
  }

  async step(): Promise<void> {
    this.#count += 1;
    const choice = this.#lab.random.below(20);
    if (choice < 9) return this.#write();
    if (choice < 12) return this.#unmap();
    if (choice < 15 || !hasSnapshots(this.#lab.capabilities)) return this.flush();
    if (choice < 17 || this.#snapshots.size === 0) return this.#create();
    if (choice < 18) return this.#apply();
    return this.#delete();
  }

  async flush(): Promise<void> {
    await this.#disk.flush();
    this.#note('flushed');
  }

  async #write(): Promise<void> {
    const { random } = this.#lab;
    const length = (1 + random.below(random.pick([4, 40]))) * sectorBytes;
    const offset = random.below(Math.floor((this.#disk.size - length) / sectorBytes)) * sectorBytes;
    const bytes = pattern(this.#count, length);
    this.#model = this.#model.slice();
    this.#model.set(bytes, offset);
    this.#note('issued');
    await this.#disk.write(offset, bytes);
  }

  async #unmap(): Promise<void> {
    const { random, stride } = this.#lab;
    const count = Math.floor(this.#disk.size / stride);
    const first = random.below(count);
    const length = (1 + random.below(count - first)) * stride;
    this.#model = this.#model.slice().fill(0, first * stride, first * stride + length);
    this.#note('issued');
    if (random.below(2) === 0) await this.#disk.discard(first * stride, length);
    else await this.#disk.writeZeroes(first * stride, length);
  }

  async #create(): Promise<void> {
    const snapshot = { name: `s${this.#count}`, disk: this.#model };
    this.events.push({ kind: 'creating', at: this.#at, ...snapshot });
    await this.#disk.snapshots.create(snapshot.name);
    this.events.push({ kind: 'created', at: this.#at, ...snapshot });
    this.#snapshots.set(snapshot.name, snapshot.disk);
  }

  async #apply(): Promise<void> {
    const [name, disk] = this.#lab.random.pick([...this.#snapshots]);
    this.#model = disk;
    this.#note('issued');
    await this.#disk.snapshots.apply(name);
    this.#note('flushed');
  }

  async #delete(): Promise<void> {
    const name = this.#lab.random.pick([...this.#snapshots.keys()]);
    this.#snapshots.delete(name);
    this.events.push({ kind: 'deleting', at: this.#at, name });
    await this.#disk.snapshots.delete(name);
    this.events.push({ kind: 'deleted', at: this.#at, name });
  }

  get #at(): number {
    return this.#folder.position;
  }

  #note(kind: 'issued' | 'flushed'): void {
    this.events.push({ kind, at: this.#at, disk: this.#model });
  }
}

function snapshotsAt(
  events: readonly GuestEvent[],
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

async function verifySnapshots(
  disk: Disk,
  events: readonly GuestEvent[],
  position: number,
  what: string,
): Promise<void> {
  const { must, may } = snapshotsAt(events, position);
  const names = (await disk.snapshots.list()).map(({ name }) => name);
  for (const name of must) assert.ok(names.includes(name), `${what}: snapshot ${name} is lost`);
  for (const name of names) {
    const kept = may.get(name);
    assert.ok(kept !== undefined, `${what}: snapshot ${name} is back`);
    const snapshot = await disk.snapshots.open(name);
    assertSameBytes(await contentsOf(snapshot), kept, `${what}: snapshot ${name}`);
    await snapshot.close();
  }
}

async function verifyCrash(
  lab: Lab,
  folder: MemoryFolder,
  events: readonly GuestEvent[],
  position: number,
): Promise<void> {
  const what = `power loss at change ${position}`;
  const { afterPowerLoss } = lab.capabilities;
  const reader = await lab.open({ folder, readOnly: true });
  const seen = await contentsOf(reader);
  await lab.assertClean(reader, afterPowerLoss);
  await reader.close();
  const disk = await lab.open({ folder });
  assertSameBytes(await contentsOf(disk), seen, `${what}: opened for writing`);
  assertOldOrNew(seen, disksAt(events, position), what);
  await verifySnapshots(disk, events, position, what);
  await lab.assertClean(disk, afterPowerLoss);
  const bytes = pattern(position, 3 * sectorBytes);
  await disk.write(lab.stride, bytes);
  await disk.close();
  seen.set(bytes, lab.stride);
  const again = await lab.open({ folder, readOnly: true });
  assertSameBytes(await contentsOf(again), seen, `${what}: after one more write`);
  await lab.assertClean(again, afterPowerLoss);
  await again.close();
}

const scenarios: readonly Scenario[] = [0, 1, 2].map((history) => ({
  name: `at any moment of history ${history} keeps what was flushed, snapshots whole, and no corruption`,
  place: 'memory',
  async run(lab) {
    const inner = new MemoryFolder();
    await lab.create({ size: lab.size(24), folder: inner });
    const folder = await CrashFolder.on(inner);
    const disk = await lab.open({ folder });
    for (let skipped = 0; skipped < history; skipped += 1) lab.random.below(2);
    const guest = new Guest(lab, disk, folder);
    for (let step = 0; step < steps; step += 1) await guest.step();
    await guest.flush();
    await disk.close();
    let states = 0;
    for (const crash of folder.crashes(lab.random, torn)) {
      await verifyCrash(lab, await crash.folder, guest.events, crash.position);
      states += 1;
    }
    assert.ok(states > steps, `only ${states} states of ${mainFile}`);
  },
}));

export const powerLoss: ScenarioGroup = { name: 'power loss', scenarios };
