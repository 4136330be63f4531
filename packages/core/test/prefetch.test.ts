import { describe, expect, it } from 'vitest';
import { Disk, MemoryFolder, prefetch, type PrefetchOptions, type ReadSource } from '../src/index.ts';
import { PAGE_BYTES, PagedImage, paged } from './paged-driver.ts';

/* When a prefetch pauses, how long, and what it has under way: decided by a clock and a die of the test's own. */

const SLOTS = 64;
const SIZE = SLOTS * PAGE_BYTES;

/** Time goes by only where the test says so: in reads of the backing, and in sleeps. */
class TestClock {
  time = 0;
  readonly sleeps: number[] = [];

  now(): number {
    return this.time;
  }

  async sleep(ms: number): Promise<void> {
    this.sleeps.push(ms);
    this.time += ms;
  }
}

interface Bench {
  readonly disk: Disk;
  readonly image: PagedImage;
  readonly clock: TestClock;
  /** Most reads of the backing that were under way together. */
  most: number;
}

/** A disk over a backing, each read of which takes `readMs` of the clock. */
async function make(readMs: (read: number) => number): Promise<Bench> {
  const clock = new TestClock();
  let underWay = 0;
  let reads = 0;
  const backing: ReadSource = {
    size: SIZE,
    read: async (offset, target) => {
      underWay++;
      bench.most = Math.max(bench.most, underWay);
      await new Promise((resolve) => setImmediate(resolve));
      clock.time += readMs(reads++);
      target.fill(1 + (offset % 250));
      underWay--;
    },
    resolve: (_, length) => ({ kind: 'encoded', length, depth: 0, allocated: true }),
  };
  const image = new PagedImage(await new MemoryFolder().create('image'), { size: SIZE, backing });
  const bench: Bench = { disk: new Disk(paged, image, 'image', false), image, clock, most: 0 };
  return bench;
}

/** A page in 10 ms is 400 KiB/s. */
const slotsOf = ({ clock }: Bench, options: PrefetchOptions = {}): PrefetchOptions => ({
  slotCount: 1,
  slotBytes: PAGE_BYTES,
  minReadBytesPerSecond: 200 * 1024,
  clock,
  random: () => 0,
  ...options,
});

describe('a prefetch', () => {
  it('copies everything without a pause while the medium is fast enough', async () => {
    const bench = await make(() => 10);
    const report = await prefetch(bench.disk, slotsOf(bench));
    expect(report).toEqual({ readBytes: SIZE, writtenBytes: SIZE, zeroedBytes: 0, pauses: 0 });
    expect(bench.clock.sleeps).toEqual([]);
    expect(await bench.disk.nextBacked()).toBeUndefined();
  });

  it('pauses after a window of slow reads, for 1 ms and a random part of the longest pause', async () => {
    const bench = await make(() => 30);
    const draws = [0.1, 0.5];
    const random = (): number => draws.shift() ?? 0.9;
    const report = await prefetch(bench.disk, slotsOf(bench, { random, throttleMaxMs: 1000 }));
    expect(report.pauses).toBe(1);
    expect(bench.clock.sleeps).toEqual([501]);
  });

  it('looks only at whole windows', async () => {
    const bench = await make(() => 30);
    const report = await prefetch(bench.disk, slotsOf(bench, { readWindowMs: 30 * SLOTS }));
    expect(report.pauses).toBe(0);
  });

  it('with the other half of the chance forgets the average and goes on', async () => {
    const bench = await make(() => 30);
    const report = await prefetch(bench.disk, slotsOf(bench, { random: () => 0.5 }));
    expect(report).toMatchObject({ pauses: 0, writtenBytes: SIZE });
  });

  it.each([
    [0.8, 0],
    [0, 1],
  ])('with a weight of %f for the past takes %i pause for one slow window', async (averageWeight, pauses) => {
    const slow = 20;
    const bench = await make((read) => (read === slow ? 120 : 5));
    const report = await prefetch(bench.disk, slotsOf(bench, { averageWeight, readWindowMs: 45 }));
    expect(report.pauses).toBe(pauses);
  });

  it('never pauses when the longest pause is 0', async () => {
    const bench = await make(() => 10_000);
    expect(await prefetch(bench.disk, slotsOf(bench, { throttleMaxMs: 0 }))).toMatchObject({ pauses: 0 });
  });

  it.each([1, 2, 5])('has %i slots under way and no more', async (slotCount) => {
    const bench = await make(() => 1);
    await prefetch(bench.disk, slotsOf(bench, { slotCount }));
    expect(bench.most).toBe(slotCount);
    expect(bench.image.log.filter((entry) => entry.startsWith('commit'))).toHaveLength(SLOTS);
  });

  it('makes copies durable after so many bytes, and the last ones at the end', async () => {
    const bench = await make(() => 1);
    await prefetch(bench.disk, slotsOf(bench, { flushBytes: 10 * PAGE_BYTES }));
    const { log } = bench.image;
    expect(log.filter((entry) => entry === 'flush')).toHaveLength(7);
    expect(log.slice(0, log.indexOf('flush')).filter((entry) => entry.startsWith('commit'))).toHaveLength(10);
    expect(log.at(-1)).toBe('flush');
  });

  it('pauses when flushes are slow, however fast the writes before them seem', async () => {
    const bench = await make(() => 1);
    const { image, clock } = bench;
    const flush = image.flush.bind(image);
    image.flush = () => {
      clock.time += 500;
      return flush();
    };
    const flushBytes = 10 * PAGE_BYTES;
    const slow = await prefetch(bench.disk, slotsOf(bench, { flushBytes, throttleMaxMs: 5 }));
    expect(slow.pauses).toBeGreaterThan(0);
  });

  it('waits before it begins when told to', async () => {
    const bench = await make(() => 1);
    await prefetch(bench.disk, slotsOf(bench, { startDelayMs: 5000 }));
    expect(bench.clock.sleeps).toEqual([5000]);
  });

  it('leaves alone what is local already', async () => {
    const bench = await make(() => 1);
    await bench.disk.write(0, new Uint8Array(10 * PAGE_BYTES).fill(7));
    const report = await prefetch(bench.disk, slotsOf(bench));
    expect(report.writtenBytes).toBe(SIZE - 10 * PAGE_BYTES);
  });

  it('ends with the first failure of the backing, and no slot goes on behind it', async () => {
    const bench = await make((read) => {
      if (read === 3) throw new Error('the medium is scratched');
      return 1;
    });
    await expect(prefetch(bench.disk, slotsOf(bench, { slotCount: 2 }))).rejects.toThrow('scratched');
    const commits = bench.image.log.length;
    await new Promise((resolve) => setImmediate(resolve));
    expect(bench.image.log).toHaveLength(commits);
    expect(bench.image.log.filter((entry) => entry.startsWith('commit')).length).toBeLessThan(6);
  });

  it.each([
    [{ slotCount: 0 }],
    [{ slotBytes: 1.5 }],
    [{ flushBytes: 0 }],
    [{ throttleMaxMs: -1 }],
    [{ startDelayMs: 2 ** 31 }],
    [{ averageWeight: 1.1 }],
    [{ minReadBytesPerSecond: Number.NaN }],
  ])('refuses %o as a mistake of the programmer', async (options) => {
    const bench = await make(() => 1);
    await expect(prefetch(bench.disk, slotsOf(bench, options))).rejects.toThrow(RangeError);
  });
});
