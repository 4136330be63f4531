import {
  DelayedFolder,
  groups,
  modelRun,
  pattern,
  Random,
  runScenario,
  scenariosFor,
} from '@cowlab/conformance';
import {
  type CountingFolder,
  createDisk,
  type Disk,
  MemoryFolder,
  openDisk,
  totalCounts,
} from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { fvd } from '../src/index.ts';
import {
  contents,
  countedDisk,
  eager,
  file,
  gathering,
  KiB,
  makeImage,
  MiB,
  openImage,
  placesByChunk,
} from './lab.ts';

/* What hundreds of snapshots with writes between them leave of a chunk: P5 and P6 over long histories. */

const block = 4 * KiB;
/** The driver's own, for chunks of 256 blocks. */
const maxPlaces = 64;
/** What gathering copies at most before one write: 256 ÷ ⌊63 ÷ 3⌋ blocks. */
const maxCopied = 12;

/** Where the writes of a round go. */
type Aim = (random: Random, blocks: number) => number;

const aims: [string, Aim][] = [
  ['anywhere', (random, blocks) => random.below(blocks)],
  [
    'in the second half of each chunk',
    (random, blocks) => 256 * random.below(blocks / 256) + 128 + random.below(128),
  ],
  ['at the edges of what was written', (random, blocks) => 8 * random.below(blocks / 8) + random.below(2)],
];

async function filledDisk(): Promise<{ disk: Disk; folder: CountingFolder }> {
  const { disk, folder } = await countedDisk({ size: 2 * MiB, options: {} });
  await disk.write(0, pattern(1, disk.size));
  return { disk, folder };
}

/** Snapshots with some writes after each; `after` is told of every write. */
async function live(
  disk: Disk,
  rounds: number,
  aim: Aim,
  after: () => void = () => undefined,
): Promise<void> {
  const random = new Random(rounds);
  const first = (await disk.snapshots.list()).length;
  for (let round = first; round < first + rounds; round++) {
    await disk.snapshots.create(`s${round}`);
    for (let i = 0; i < 4; i++) {
      await disk.write(aim(random, disk.size / block) * block, pattern(round, block));
      after();
    }
  }
}

describe('P5: over a long history', () => {
  it.each(aims)('a first write copies a few blocks at most, wherever it goes: %s', async (_, aim) => {
    const { disk, folder } = await filledDisk();
    folder.reset();
    let most = 0;
    let total = 0;
    await live(disk, 200, aim, () => {
      const { readBytes, writtenBytes } = folder.counts.purposes.data;
      most = Math.max(most, writtenBytes / block - 1);
      expect(readBytes).toBe(writtenBytes - block);
      total += writtenBytes / block;
      folder.reset();
    });
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThanOrEqual(maxCopied);
    expect(total / 800).toBeLessThan(1 + maxCopied / 2);
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
  });

  it('a chunk that was written in 31 places since it lay together has been copied nowhere', async () => {
    const { disk, folder } = await filledDisk();
    folder.reset();
    for (let i = 0; i < 31; i++) {
      await disk.snapshots.create(`s${i}`);
      await disk.write((3 + 8 * i) * block, pattern(i, block));
    }
    expect(folder.counts.purposes.data).toMatchObject({ reads: 0, writes: 31, writtenBytes: 31 * block });
    await disk.close();
  });

  it('metadata follow what changed', async () => {
    const { disk, folder } = await filledDisk();
    folder.reset();
    await live(disk, 300, aims[0]![1]);
    // Two chunks: 64 places of 8 bytes each, and a root of 48.
    expect(folder.counts.purposes.mapping.writtenBytes).toBeLessThan(300 * (2 * maxPlaces * 8 + 200));
    await disk.close();
  });

  it('writes into a chunk that has holes make no places of their own', async () => {
    const { disk, folder } = await countedDisk({ size: MiB, options: {} });
    for (let i = 0; i < 128; i++) await disk.write(2 * i * block, pattern(i, block));
    expect(totalCounts(folder.counts).reads).toBeLessThan(10);
    expect(placesByChunk(disk, MiB)).toEqual([1]);
    await disk.close();
  });
});

describe('P6: over a long history', () => {
  it.each(aims)('a chunk lies in 64 places at most, and is read in as many pieces: %s', async (_, aim) => {
    const { disk, folder } = await filledDisk();
    let most = 0;
    await live(disk, 200, aim, () => {
      most = Math.max(most, ...placesByChunk(disk, MiB));
    });
    expect(most).toBeGreaterThan(maxPlaces - 4);
    expect(most).toBeLessThanOrEqual(maxPlaces);
    folder.reset();
    await disk.read(MiB, new Uint8Array(MiB));
    expect(totalCounts(folder.counts).reads).toBeLessThanOrEqual(maxPlaces);
    await disk.close();
    const again = await openImage(folder);
    expect(Math.max(...placesByChunk(again, MiB))).toBeLessThanOrEqual(maxPlaces);
    await again.close();
  });

  it('resident metadata stop growing', async () => {
    const { disk } = await filledDisk();
    await live(disk, 100, aims[0]![1]);
    const { tableBytes } = disk.stats();
    await live(disk, 150, aims[0]![1]);
    expect(disk.stats().tableBytes).toBeLessThanOrEqual(tableBytes! * 1.1);
    await disk.close();
  });

  it('a chunk that came with more places than are allowed has no more than those after its next first write', async () => {
    const folder = new MemoryFolder();
    await makeImage(folder, { size: MiB, options: {} });
    const disk = await openImage(folder);
    await disk.write(0, pattern(1, MiB));
    await live(disk, 30, aims[0]![1]);
    await disk.snapshots.create('last');
    await disk.close();
    const narrow = await openDisk({ folder, file }, { drivers: [gathering(8)], format: 'fvd' });
    const before = await contents(narrow);
    expect(placesByChunk(narrow, MiB)[0]).toBeGreaterThan(8);
    const bytes = pattern(7, block);
    await narrow.write(100 * block, bytes);
    before.set(bytes, 100 * block);
    expect(placesByChunk(narrow, MiB)[0]).toBeLessThanOrEqual(8);
    expect(Buffer.from(await contents(narrow)).equals(before)).toBe(true);
    expect((await narrow.check()).findings).toEqual([]);
    await narrow.close();
  });
});

describe('max_places', () => {
  it.each([0, 3])('%i is refused: a first write may add two', async (places) => {
    const folder = new MemoryFolder();
    await makeImage(folder);
    const opening = openDisk({ folder, file }, { drivers: [fvd], options: { max_places: places } });
    await expect(opening).rejects.toMatchObject({
      code: 'ERR_INVALID_OPTION',
      data: { field: 'max_places' },
    });
  });
});

/** A disk that is gathered all the time, beside what it and its snapshots must hold. */
class Life {
  readonly folder: DelayedFolder;
  readonly random: Random;
  readonly kept = new Map<string, Uint8Array>();
  model: Uint8Array;
  disk: Disk;

  private constructor(folder: DelayedFolder, seed: number, disk: Disk) {
    this.folder = folder;
    this.random = new Random(seed);
    this.disk = disk;
    this.model = new Uint8Array(disk.size);
  }

  static async begin(seed: number): Promise<Life> {
    const folder = new DelayedFolder(new MemoryFolder(), seed);
    const options = { chunk_size: 64 * KiB, block_size: 512, journal_size: 64 * KiB };
    const driver = eager(4 + (seed % 5));
    await createDisk({ folder, file }, { driver, size: 160 * KiB + 512, options });
    const disk = await openDisk({ folder, file }, { drivers: [driver], format: 'fvd' });
    return new Life(folder, seed, disk);
  }

  /** Several requests at once, that do not overlap. */
  async round(): Promise<void> {
    const running: unknown[] = [];
    for (
      let at = this.random.below(6000);
      at < this.model.length - 4096;
      at += 3000 + this.random.below(9000)
    ) {
      const length = 1 + this.random.below(2500);
      if (this.random.below(8) === 0) running.push(this.#discard(at, length));
      else {
        const bytes = pattern(this.random.below(1000), length);
        this.model.set(bytes, at);
        running.push(this.disk.write(at, bytes));
      }
    }
    if (this.random.below(3) === 0) running.push(this.disk.flush());
    await Promise.all(running);
  }

  async turn(number: number): Promise<void> {
    const choice = this.random.below(10);
    if (choice < 6) {
      await this.disk.snapshots.create(`s${number}`);
      this.kept.set(`s${number}`, this.model.slice());
    } else if (choice < 8 && this.kept.size > 0) {
      const name = this.random.pick([...this.kept.keys()]);
      await this.disk.snapshots.delete(name);
      this.kept.delete(name);
    } else if (choice < 9 && this.kept.size > 0) {
      const [name, bytes] = this.random.pick([...this.kept]);
      await this.disk.snapshots.apply(name);
      this.model = bytes.slice();
    }
  }

  async verify(): Promise<void> {
    expect(Buffer.from(await contents(this.disk)).equals(this.model)).toBe(true);
    for (const [name, bytes] of this.kept) {
      const snapshot = await this.disk.snapshots.open(name);
      expect(Buffer.from(await contents(snapshot)).equals(bytes), name).toBe(true);
      await snapshot.close();
    }
    expect((await this.disk.check()).findings).toEqual([]);
  }

  /** Whole sectors only: what is zeroed of a partial one is another question. */
  #discard(at: number, length: number): unknown {
    const start = at - (at % 512);
    const end = start + 512 * Math.ceil(length / 512);
    this.model.fill(0, start, end);
    return this.disk.discard(start, end - start);
  }
}

describe('any history, with requests that overtake each other', () => {
  it.each([1, 2, 3, 4, 5, 6])('leaves front and snapshots as the model has them: seed %i', async (seed) => {
    const life = await Life.begin(seed);
    for (let number = 0; number < 40; number++) {
      await life.turn(number);
      await life.round();
      if (number % 10 === 9) await life.verify();
    }
    await life.disk.close();
    const again = await openImage(life.folder);
    expect(Buffer.from(await contents(again)).equals(life.model)).toBe(true);
    expect((await again.check()).findings).toEqual([]);
    await again.close();
  });
});

describe.each([
  ['chunks that are gathered by most first writes', gathering(4)],
  ['the same, and deltas over pages of any length', eager(4)],
])('the conformance suite, with %s', (_, driver) => {
  const seed = 20_261_124;
  const subject = { driver, options: { chunk_size: 64 * KiB, block_size: 512 } };
  // What has been gathered lies elsewhere, so `diff` names it; that group wants nothing named but what was written.
  const scenarios = groups
    .filter(({ name }) => name !== 'differences between states')
    .flatMap((group) => scenariosFor(group, subject, 'memory'));
  it.each(scenarios)('$name', (scenario) => runScenario(scenario, subject, 'memory', seed));

  it('does what the reference model does', () => modelRun(subject, { place: 'memory', seed, numRuns: 100 }));
});
