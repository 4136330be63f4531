import {
  createDisk,
  type DeviceModel,
  deviceModels,
  type Disk,
  MemoryFolder,
  openDisk,
  SimulatedDevice,
  SimulatedFolder,
  type StorageFolder,
} from '@cowlab/core';
import { countsFor, type Subject } from '../formats.ts';
import { createdAt, fill, IMAGE_FILE } from '../lab.ts';
import { breathe } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { DeviceRow } from '../schema.ts';
import { distinctOffsets, patternBytes, randomOffsets } from '../workload.ts';

/*
 * The same questions on devices that nobody has at hand, by a virtual clock: what the storage calls of each format come
 * to on a hard disk, on SSDs, over a network, at queue depths of 1 and 32. No machine's own speed is in it, so two runs
 * give the same numbers to the last digit. Not in it either: the time of the processor, and a cache of pages.
 */

const DEPTHS: readonly number[] = [1, 32];
/** A device, and the requests that a guest keeps under way on it: each begins when the earliest of them is done. */
class Queue {
  readonly kind: string;
  readonly depth: number;
  readonly device: SimulatedDevice;
  readonly #done: Float64Array;
  #current = 0;

  constructor(kind: string, model: DeviceModel, depth: number) {
    this.kind = kind;
    this.depth = depth;
    this.device = new SimulatedDevice(model);
    this.#done = new Float64Array(depth);
  }

  begin(): void {
    this.#current = this.#done.indexOf(Math.min(...this.#done));
    this.device.at(this.#done[this.#current]!);
  }

  end(): void {
    this.#done[this.#current] = this.device.nowMicros;
  }

  /** Waits for all of them; the moment when the last one is done. */
  drain(): number {
    const last = Math.max(...this.#done);
    this.#done.fill(last);
    this.device.at(last);
    return last;
  }
}

/** One disk, on a queue of each depth to each kind of device. */
class Clocks {
  readonly queues: readonly Queue[] = Object.entries(deviceModels).flatMap(([kind, model]) =>
    DEPTHS.map((depth) => new Queue(kind, model, depth)),
  );

  /** Something that all queues are to be empty for, before and after it. */
  async alone(work: () => Promise<unknown>): Promise<void> {
    for (const queue of this.queues) queue.drain();
    for (const queue of this.queues) queue.begin();
    await work();
    for (const queue of this.queues) queue.end();
    for (const queue of this.queues) queue.drain();
  }

  async request(work: () => void | Promise<void>): Promise<void> {
    for (const queue of this.queues) queue.begin();
    await work();
    for (const queue of this.queues) queue.end();
  }

  /** Runs so many operations; what each took on the average, queue by queue. */
  async timed(operations: number, work: () => Promise<void>): Promise<number[]> {
    const before = this.queues.map((queue) => queue.drain());
    await work();
    return this.queues.map((queue, index) => (queue.drain() - before[index]!) / operations);
  }
}

function openImage(folder: StorageFolder, { driver, open }: Subject): Promise<Disk> {
  return openDisk({ folder, file: IMAGE_FILE }, { drivers: [driver], format: driver.name, options: open });
}

/** An image in `folder`, every byte of it written, with snapshots. */
async function build(
  folder: StorageFolder,
  subject: Subject,
  imageBytes: number,
  snapshots: number,
): Promise<void> {
  const { driver, create } = subject;
  await createDisk({ folder, file: IMAGE_FILE }, { driver, size: imageBytes, options: create });
  const disk = await openImage(folder, subject);
  await fill(disk, 0, imageBytes, () => undefined);
  for (let index = 0; index < snapshots; index += 1) {
    await disk.snapshots.create(`s${index}`, { createdAt });
    if (index % 16 === 0) await breathe();
  }
  await disk.close();
}

/** What a workload is done to. */
interface Station {
  readonly disk: Disk;
  readonly clocks: Clocks;
  readonly profile: Profile;
  readonly seed: number;
}

function reads({ disk, clocks, profile, seed }: Station): Promise<number[]> {
  const { deviceOperations, requestBytes } = profile;
  const target = new Uint8Array(requestBytes);
  return clocks.timed(deviceOperations, async () => {
    for (const offset of randomOffsets(seed, deviceOperations, disk.size, requestBytes)) {
      await clocks.request(() => disk.read(offset, target));
    }
  });
}

/** Twice over the same blocks: first those that the newest snapshot shares, then the disk's own. */
function overwrites({ disk, clocks, profile, seed }: Station): Promise<number[]> {
  const { deviceOperations, requestBytes, flushEvery } = profile;
  const source = patternBytes(seed, requestBytes);
  return clocks.timed(deviceOperations, async () => {
    const offsets = distinctOffsets(seed + 1, deviceOperations, disk.size, requestBytes);
    for (const [index, offset] of offsets.entries()) {
      await clocks.request(() => disk.write(offset, source));
      if ((index + 1) % flushEvery === 0) await clocks.alone(async () => disk.flush());
    }
    await clocks.alone(async () => disk.flush());
  });
}

const workloads: readonly [DeviceRow['workload'], (station: Station) => Promise<number[]>][] = [
  ['read', reads],
  ['first overwrite', overwrites],
  ['steady overwrite', overwrites],
  [
    'create',
    ({ disk, clocks }) =>
      clocks.timed(1, () => clocks.alone(() => disk.snapshots.create('timed', { createdAt }))),
  ],
  ['delete', ({ disk, clocks }) => clocks.timed(1, () => clocks.alone(() => disk.snapshots.delete('timed')))],
];

/** The rows of one format at one N. `folder` holds the bytes; which one it is makes no difference. */
export async function measureOnDevices(
  folder: StorageFolder,
  subject: Subject,
  snapshots: number,
  profile: Profile,
  seed: number,
): Promise<DeviceRow[]> {
  await build(folder, subject, profile.deviceImageBytes, snapshots);
  const clocks = new Clocks();
  const simulated = new SimulatedFolder(
    folder,
    clocks.queues.map(({ device }) => device),
  );
  const rows: DeviceRow[] = [];
  const note = (workload: DeviceRow['workload'], operations: number, micros: readonly number[]): void => {
    for (const [index, { kind, depth }] of clocks.queues.entries()) {
      rows.push({
        device: kind,
        depth,
        format: subject.name,
        snapshots,
        workload,
        operations,
        micros: micros[index]!,
      });
    }
  };
  let disk: Disk | undefined;
  const opening = await clocks.timed(1, () =>
    clocks.alone(async () => {
      disk = await openImage(simulated, subject);
    }),
  );
  note('open', 1, opening);
  const station: Station = { disk: disk!, clocks, profile, seed };
  for (const [workload, run] of workloads) {
    const single = workload === 'create' || workload === 'delete';
    if (single && subject.driver.capabilities.snapshots === 'none') continue;
    note(workload, single ? 1 : profile.deviceOperations, await run(station));
    await breathe();
  }
  await station.disk.close();
  return rows;
}

export async function measureDevices(
  subjects: readonly Subject[],
  profile: Profile,
  seed: number,
  tick: (done: number) => void,
): Promise<DeviceRow[]> {
  const rows: DeviceRow[] = [];
  for (const [index, subject] of subjects.entries()) {
    for (const snapshots of countsFor(subject, profile.deviceSnapshotCounts, 1)) {
      rows.push(...(await measureOnDevices(new MemoryFolder(), subject, snapshots, profile, seed)));
    }
    tick((index + 1) / subjects.length);
  }
  return rows;
}
