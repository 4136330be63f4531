import { expect, it } from 'vitest';
import { MemoryFolder } from '@cowlab/core';
import { DelayedFolder, FaultFolder, pattern, Random, ReferenceModel, TraceFolder } from '../src/index.ts';

/* What the suite itself stands on: if these are wrong, it proves the wrong thing. */

it('the model discards whole units, and the last one when the range reaches the end', () => {
  const model = new ReferenceModel(2500, 1000);
  const full = (): void => model.write(0, new Uint8Array(2500).fill(1));
  const zeros = (): number[] => [...model.bytes.keys()].filter((index) => model.bytes[index] === 0);
  full();
  model.discard(1, 1999);
  expect([zeros()[0], zeros().length]).toEqual([1000, 1000]);
  full();
  model.discard(1500, 1000);
  expect([zeros()[0], zeros().length]).toEqual([2000, 500]);
  full();
  model.discard(1001, 998);
  expect(zeros()).toEqual([]);
});

it('the model keeps snapshots apart from the writable state, and from each other', () => {
  const model = new ReferenceModel(4, 1);
  model.createSnapshot('zeros');
  model.write(0, Uint8Array.of(1, 2));
  model.createSnapshot('ones');
  model.applySnapshot('zeros');
  model.write(3, Uint8Array.of(9));
  expect([...model.bytes]).toEqual([0, 0, 0, 9]);
  expect([...model.snapshot('ones')]).toEqual([1, 2, 0, 0]);
  expect([...model.snapshot('zeros')]).toEqual([0, 0, 0, 0]);
  model.deleteSnapshot('zeros');
  expect([...model.snapshots.keys()]).toEqual(['ones']);
  expect(() => model.createSnapshot('ones')).toThrow('ones');
  expect(() => model.write(3, new Uint8Array(2))).toThrow(RangeError);
});

it('one seed gives one sequence, and patterns of two tags differ in every sector', () => {
  const draw = (seed: number): number[] => {
    const random = new Random(seed);
    return Array.from({ length: 20 }, () => random.below(1000));
  };
  expect(draw(7)).toEqual(draw(7));
  expect(draw(7)).not.toEqual(draw(8));
  const first = pattern(1, 4096);
  expect(first.includes(0)).toBe(false);
  expect(pattern(1, 4096)).toEqual(first);
  for (let start = 0; start < 4096; start += 512) {
    expect(pattern(2, 4096).subarray(start, start + 512)).not.toEqual(first.subarray(start, start + 512));
  }
});

it.each([
  ['EIO', 'ERR_IO', 0],
  ['ENOSPC', 'ERR_NO_SPACE', 0],
  ['short', 'ERR_NO_SPACE', 512],
] as const)('a fault of kind %s fails the call it is armed for with %s', async (kind, code, arrived) => {
  const folder = new FaultFolder(new MemoryFolder());
  const storage = await folder.create('a');
  folder.arm({ kind, methods: ['write'], nth: 2 });
  await storage.write(0, new Uint8Array(10));
  await storage.truncate(0);
  expect(() => storage.write(0, new Uint8Array(1024).fill(1))).toThrow(expect.objectContaining({ code }));
  expect(storage.size()).toBe(arrived);
  expect(folder.fired).toBe(1);
  await storage.write(0, new Uint8Array(4));
});

it('a lasting fault fails until it is disarmed, and only for its purpose', async () => {
  const folder = new FaultFolder(new MemoryFolder());
  const storage = await folder.create('a');
  folder.arm({ kind: 'EIO', methods: ['write'], nth: 1, lasting: true, purpose: 'mapping' });
  await storage.write(0, new Uint8Array(1));
  for (let round = 0; round < 3; round++) {
    expect(() => storage.write(0, new Uint8Array(1), 'mapping')).toThrow('EIO');
  }
  folder.disarm();
  await storage.write(0, new Uint8Array(1), 'mapping');
});

it('delays let calls overtake each other, the same way for the same seed', async () => {
  const orderOf = async (seed: number): Promise<number[]> => {
    const storage = await new DelayedFolder(new MemoryFolder(), seed).create('a');
    const order: number[] = [];
    const calls = Array.from({ length: 20 }, async (_, index) => {
      await storage.write(index, Uint8Array.of(index));
      order.push(index);
    });
    await Promise.all(calls);
    return order;
  };
  const order = await orderOf(3);
  expect(order).not.toEqual(order.toSorted((a, b) => a - b));
  expect(await orderOf(3)).toEqual(order);
});

it('a trace knows what is unflushed and what is open', async () => {
  const folder = new TraceFolder(new MemoryFolder());
  const a = await folder.create('a');
  const b = await folder.create('b');
  await a.write(0, new Uint8Array(1));
  await b.zero(0, 1);
  await a.flush();
  expect(folder.unflushed()).toEqual(['b']);
  await a.close();
  await a.close();
  expect(folder.openFiles).toEqual(['b']);
});
