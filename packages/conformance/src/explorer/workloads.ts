import { type Capabilities, commitDisk, type StorageFolder } from '@cowlab/core';
import { amended, amendmentsOf } from '../amendments.ts';
import { type Lab, mainFile } from '../lab.ts';
import { compresses, hasSnapshots } from '../subject.ts';
import type { Guest } from './guest.ts';

/*
 * What a guest does while the power may fail: each workload is about one way in which a driver changes what is on
 * its medium, and does little else, so that most moments of it are moments of that.
 */

export interface CrashWorkload {
  readonly name: string;
  readonly when?: (capabilities: Capabilities) => boolean;
  /** Of the disk; 24 when left out. */
  readonly strides?: number;
  /** Strides of a backing, full of bytes. */
  readonly backing?: number;
  /** A second backing, of other bytes. */
  readonly otherBacking?: boolean;
  readonly copyOnRead?: boolean;
  /** What is there, durably, before anything is recorded. */
  prepare?(guest: Guest): Promise<void>;
  run?(guest: Guest): Promise<void>;
  /** In the place of `run`: something that opens the image itself, and leaves its disk as it was. */
  runClosed?(lab: Lab, folder: StorageFolder): Promise<void>;
}

const grows = ({ resize }: Capabilities): boolean => resize !== 'none';
const shrinks = ({ resize }: Capabilities): boolean => resize === 'both';
const backs = ({ backing }: Capabilities): boolean => backing;
const releases = ({ releaseBacking }: Capabilities): boolean => releaseBacking;
const rebases = ({ changeBacking }: Capabilities): boolean => changeBacking;
const empties = ({ empty }: Capabilities): boolean => empty;
const amends = ({ amend }: Capabilities): boolean => amend.length > 0;
const compacts = ({ compact }: Capabilities): boolean => compact !== 'none';
const renames = ({ renameSnapshots }: Capabilities): boolean => renameSnapshots;

/** Bytes everywhere. */
const fill = (guest: Guest): Promise<void> => guest.write(0, guest.size);

async function writes(guest: Guest, count: number): Promise<void> {
  for (let n = 0; n < count; n += 1) await guest.writeSome();
}

/** Snapshots `a`, `b` and `c`, one upon the other, and a disk that differs from all of them. */
async function three(guest: Guest): Promise<void> {
  await guest.write(0, 12 * guest.stride);
  for (const name of ['a', 'b', 'c']) {
    await writes(guest, 2);
    await guest.create(name);
  }
  await writes(guest, 2);
  await guest.discard(guest.random.below(guest.strides - 2), 2);
}

const deletes = (which: 'a' | 'b' | 'c', place: string): CrashWorkload => ({
  name: `delete-${place}`,
  when: hasSnapshots,
  prepare: three,
  async run(guest) {
    await guest.writeSome();
    await guest.delete(which);
    await guest.writeSome();
    await guest.flush();
  },
});

/** Whatever comes to mind. */
async function anything(guest: Guest): Promise<void> {
  const { random, snapshots, strides } = guest;
  const choice = random.below(20);
  const first = random.below(strides);
  const count = 1 + random.below(strides - first);
  if (choice < 9) await guest.writeSome(0, strides, random.pick([4, 40]));
  else if (choice < 11) await guest.discard(first, count);
  else if (choice < 12) await guest.writeZeroes(first * guest.stride, count * guest.stride);
  else if (choice < 15 || !hasSnapshots(guest.capabilities)) await guest.flush();
  else if (choice < 17 || snapshots.size === 0) await guest.create(`s${random.below(1_000_000)}`);
  else if (choice < 18) await guest.apply(random.pick([...snapshots.keys()]));
  else await guest.delete(random.pick([...snapshots.keys()]));
}

const data: readonly CrashWorkload[] = [
  {
    name: 'allocate',
    async run(guest) {
      for (let round = 0; round < 3; round += 1) {
        await writes(guest, 1 + guest.random.below(4));
        await guest.flush();
      }
      await writes(guest, 2);
    },
  },
  {
    name: 'overwrite',
    prepare: fill,
    async run(guest) {
      for (let round = 0; round < 3; round += 1) {
        await writes(guest, 1 + guest.random.below(3));
        await guest.flush();
      }
      await writes(guest, 1);
    },
  },
  {
    name: 'discard',
    prepare: fill,
    async run(guest) {
      const { random, strides } = guest;
      const first = random.below(strides - 8);
      await guest.discard(first, 4);
      await guest.writeSome(first, first + 8);
      await guest.flush();
      // What was freed is free now, and is used again; once over a zero that no flush has made durable.
      await guest.discard(first + 4, 3);
      await guest.write((first + 4) * guest.stride, guest.stride);
      await guest.writeZeroes(first * guest.stride, 2 * guest.stride);
      await guest.flush();
      await guest.writeSome(first, first + 8);
      await guest.flush();
      await guest.writeSome(first, first + 8);
    },
  },
  {
    name: 'journal-wrap',
    async run(guest) {
      const { random, strides } = guest;
      // Every flush has mappings to keep: 160 of them are more than the smallest log holds.
      for (let round = 0; round < 160; round += 1) {
        const stride = random.below(strides);
        if (round % 2 === 0) await guest.write(stride * guest.stride, 512);
        else await guest.discard(stride, 1);
        await guest.flush();
      }
    },
  },
  {
    name: 'growth',
    strides: 72,
    async run(guest) {
      const { random, strides } = guest;
      const count = 12 + random.below(8);
      for (let n = 0; n < count; n += 1) {
        await guest.write(Math.floor((n * strides) / count) * guest.stride, guest.stride);
        if (n % 5 === 4) await guest.flush();
      }
      await guest.write(0, strides * guest.stride);
      await guest.flush();
    },
  },
  {
    name: 'close',
    async run(guest) {
      await writes(guest, 3);
      await guest.flush();
      await writes(guest, 2);
      await guest.discard(guest.random.below(guest.strides), 1);
      await guest.close();
    },
  },
  {
    name: 'anything',
    async run(guest) {
      for (let step = 0; step < 30; step += 1) await anything(guest);
    },
  },
];

const withSnapshots: readonly CrashWorkload[] = [
  {
    name: 'first-pass',
    async prepare(guest) {
      await fill(guest);
      await guest.create('a');
    },
    async run(guest) {
      for (let round = 0; round < 2; round += 1) {
        await writes(guest, 2 + guest.random.below(2));
        await guest.flush();
      }
      await writes(guest, 2);
    },
  },
  {
    name: 'snapshot-create',
    prepare: (guest) => guest.write(0, 10 * guest.stride),
    async run(guest) {
      await writes(guest, 2);
      await guest.create('a');
      await guest.writeSome();
      await guest.create('b');
      await guest.writeSome();
    },
  },
  {
    name: 'delete-only',
    async prepare(guest) {
      await fill(guest);
      await guest.create('a');
      await writes(guest, 2);
      await guest.discard(guest.random.below(guest.strides - 2), 2);
    },
    async run(guest) {
      await guest.writeSome();
      await guest.delete('a');
      await guest.writeSome();
      await guest.flush();
      await guest.create('b');
      await guest.writeSome();
      await guest.delete('b');
      await guest.writeSome();
    },
  },
  deletes('a', 'first'),
  deletes('b', 'middle'),
  deletes('c', 'last'),
  {
    name: 'delete-branch',
    async prepare(guest) {
      await three(guest);
      await guest.apply('a');
      await writes(guest, 2);
      await guest.create('d');
      await writes(guest, 2);
    },
    async run(guest) {
      await guest.delete(guest.random.pick(['a', 'b', 'd']));
      await guest.delete('c');
      await guest.writeSome();
      await guest.flush();
    },
  },
  {
    name: 'apply',
    prepare: three,
    async run(guest) {
      await guest.writeSome();
      await guest.apply(guest.random.pick(['a', 'b']));
      await guest.writeSome();
      await guest.flush();
      await guest.apply('c');
      await guest.writeSome();
    },
  },
];

const others: readonly CrashWorkload[] = [
  {
    name: 'compress',
    when: compresses,
    async run(guest) {
      const { random, strides } = guest;
      for (let round = 0; round < 4; round += 1) {
        await guest.writeCompressed(random.below(strides - 6), 1 + random.below(6));
        // Some of them are written over, and what they leave free is filled again.
        await guest.writeSome();
        if (round % 2 === 1) await guest.flush();
      }
      await guest.writeCompressed(random.below(strides - 6), 6);
    },
  },
  {
    name: 'compress-under-snapshots',
    when: (capabilities) => compresses(capabilities) && hasSnapshots(capabilities),
    prepare: (guest) => guest.writeCompressed(0, 12),
    async run(guest) {
      const { random } = guest;
      await guest.create('a');
      await guest.writeCompressed(random.below(10), 4);
      await guest.discard(random.below(10), 2);
      await guest.create('b');
      await guest.writeCompressed(random.below(10), 4);
      await guest.delete('a');
      await guest.writeCompressed(12, 3);
      await guest.flush();
      await guest.apply('b');
      await guest.writeCompressed(random.below(10), 2);
    },
  },
  {
    name: 'rename',
    when: (capabilities) => hasSnapshots(capabilities) && renames(capabilities),
    prepare: three,
    async run(guest) {
      await guest.writeSome();
      await guest.rename('b', 'another name, and a longer one');
      await guest.rename('a', 'b');
      await guest.writeSome();
      await guest.flush();
    },
  },
  {
    name: 'grow',
    when: grows,
    prepare: (guest) => guest.write(2 * guest.stride, (guest.strides - 2) * guest.stride),
    async run(guest) {
      await guest.writeSome();
      await guest.resize(guest.strides + 3);
      await guest.writeSome(guest.strides - 6);
      await guest.flush();
      await guest.resize(guest.strides + 20);
      await guest.writeSome(guest.strides - 20);
    },
  },
  {
    name: 'shrink',
    when: shrinks,
    prepare: fill,
    async run(guest) {
      await guest.writeSome();
      await guest.resize(guest.strides - 9);
      await guest.writeSome();
      await guest.resize(guest.strides + 4);
      await guest.writeSome(guest.strides - 4);
      await guest.flush();
    },
  },
  {
    name: 'compact',
    when: compacts,
    // Several chunks, where a chunk has sixteen strides.
    strides: 96,
    async prepare(guest) {
      await fill(guest);
      if (!hasSnapshots(guest.capabilities)) return guest.discard(0, 50);
      // What only the first one had is free then, and the disk's own data lie behind it.
      for (const name of ['first', 'second']) {
        await guest.create(name);
        await fill(guest);
      }
      await guest.delete('first');
    },
    async run(guest) {
      await guest.writeSome();
      await guest.compact();
      await guest.writeSome();
      await guest.discard(0, 40);
      await guest.compact();
      await guest.writeSome();
      await guest.flush();
    },
  },
  {
    name: 'copy-on-read',
    when: backs,
    backing: 16,
    copyOnRead: true,
    async run(guest) {
      for (let step = 0; step < 10; step += 1) {
        await guest.read(guest.random.below(guest.size - guest.stride), guest.stride);
        if (step % 3 === 1) await guest.writeSome();
        if (step % 4 === 3) await guest.flush();
      }
    },
  },
  {
    name: 'prefetch',
    when: backs,
    backing: 16,
    async run(guest) {
      for (let first = 0; first < guest.strides; first += 5) {
        await guest.populate(first, 5);
        if (guest.random.below(2) === 0) await guest.writeSome();
        if (guest.random.below(3) === 0) await guest.flush();
      }
      await guest.flush();
    },
  },
  {
    name: 'release',
    when: releases,
    backing: 16,
    // Most of it is there already, so that most moments are moments of the release.
    prepare: (guest) => guest.populate(0, 12),
    async run(guest) {
      await guest.writeSome();
      await guest.populate(12, guest.strides - 11);
      await guest.writeSome();
      await guest.releaseBacking();
      await guest.writeSome();
      await guest.flush();
    },
  },
  {
    name: 'rebase',
    when: rebases,
    backing: 16,
    otherBacking: true,
    prepare: (guest) => guest.populate(0, 11),
    async run(guest) {
      await guest.writeSome();
      await guest.rebase('other');
      await guest.writeSome();
      await guest.rebase('none');
      await guest.writeSome();
      await guest.flush();
    },
  },
];

const withoutGuest: readonly CrashWorkload[] = [
  {
    name: 'commit',
    when: empties,
    backing: 24,
    async prepare(guest) {
      await writes(guest, 6);
      await guest.write(9 * guest.stride, 2 * guest.stride);
      await guest.writeZeroes(3 * guest.stride, guest.stride);
    },
    async runClosed({ drivers, driver }, folder) {
      await commitDisk({ folder, file: mainFile }, { drivers, format: driver.name });
    },
  },
  {
    name: 'amend',
    when: amends,
    backing: 24,
    async prepare(guest) {
      await writes(guest, 6);
      await guest.writeZeroes(3 * guest.stride, 2 * guest.stride);
      if (hasSnapshots(guest.capabilities)) {
        for (const name of ['a', 'b']) await guest.create(name);
        await guest.writeZeroes(7 * guest.stride, guest.stride);
      }
    },
    async runClosed({ drivers, driver }, folder) {
      for (const amendment of amendmentsOf(driver)) await amended(folder, driver, drivers, amendment);
    },
  },
];

/** All of them; capabilities choose. */
export const crashWorkloads: readonly CrashWorkload[] = [
  ...data,
  ...withSnapshots.map((workload) => ({ ...workload, when: hasSnapshots })),
  ...others,
  ...withoutGuest,
];

/** Those that a driver of these capabilities can do. */
export function crashWorkloadsFor(capabilities: Capabilities): CrashWorkload[] {
  return crashWorkloads.filter(({ when }) => when?.(capabilities) ?? true);
}
