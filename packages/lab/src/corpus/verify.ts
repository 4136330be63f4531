import { copyFile, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Random, type ReferenceModel } from '@cowlab/conformance';
import { type Disk, openDisk, type SnapshotInfo } from '@cowlab/core';
import { qcow2 } from '@cowlab/qcow2-like';
import { vmdk } from '@cowlab/vmdk-chain';
import type { Made } from './make.ts';
import { qemuImg } from './qemu.ts';

/* Comparisons, each of which throws what it found: of ours with the model, and of QEMU's with the model. */

/** What went wrong with an image, by who found it. */
export class Finding extends Error {
  readonly found: 'difference' | 'check';

  constructor(found: Finding['found'], message: string) {
    super(message);
    this.found = found;
  }
}

export function open({ folder, file, format }: Made, readOnly: boolean): Promise<Disk> {
  return openDisk(join(folder, file), { drivers: [qcow2, vmdk], format, readOnly });
}

function assertSame(actual: Uint8Array, expected: Uint8Array, what: string): void {
  if (actual.length !== expected.length) {
    throw new Finding('difference', `${what}: ${actual.length} bytes, expected ${expected.length}`);
  }
  if (Buffer.compare(actual, expected) === 0) return;
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  const show = (bytes: Uint8Array): string => Buffer.from(bytes.subarray(at, at + 8)).toString('hex');
  throw new Finding('difference', `${what}: byte ${at} and on: ${show(actual)}, expected ${show(expected)}`);
}

async function contentsOf(disk: Disk): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

const PIECES = 24;

/** The disk as a whole and in pieces of any alignment, and each of its snapshots. */
export async function assertReadsAs(disk: Disk, model: ReferenceModel, seed: number): Promise<void> {
  assertSame(await contentsOf(disk), model.bytes, 'our disk');
  const random = new Random(seed);
  for (let piece = 0; piece < PIECES; piece++) {
    const at = random.below(model.size);
    const length = 1 + random.below(Math.min(200_000, model.size - at));
    const bytes = new Uint8Array(length);
    await disk.read(at, bytes);
    assertSame(bytes, model.read(at, length), `our ${length} bytes from ${at}`);
  }
  const names = (await disk.snapshots.list()).map(({ name }) => name).join(' ');
  const expected = [...model.snapshots.keys()].join(' ');
  if (names !== expected) throw new Finding('difference', `our snapshots: ${names}, expected ${expected}`);
  for (const [name, bytes] of model.snapshots) {
    const snapshot = await disk.snapshots.open(name);
    try {
      assertSame(await contentsOf(snapshot), bytes, `our snapshot ${name}`);
    } finally {
      await snapshot.close();
    }
  }
}

/**
 * No corruption, and no more leaks than there may be. Returns how many leaks there are: QEMU leaves the grain behind that
 * it makes a zeroed one of, and VMDK has no way to give it back.
 */
export async function assertClean(disk: Disk, mostLeaks: number): Promise<number> {
  const { corruptions, leaks, findings } = await disk.check();
  if (corruptions === 0 && leaks <= mostLeaks) return leaks;
  const first = findings.map(({ structure, message }) => `${structure}: ${message}`).slice(0, 3);
  throw new Finding('check', `our check: ${corruptions} corruptions, ${leaks} leaks: ${first.join('; ')}`);
}

const EXPECTED = 'expected.raw';

async function assertCompares(made: Made, file: string, bytes: Uint8Array, what: string): Promise<void> {
  const { folder, format } = made;
  await writeFile(join(folder, EXPECTED), bytes);
  try {
    await qemuImg(folder, 'compare', '-f', format, '-F', 'raw', file, EXPECTED);
  } catch (error) {
    throw new Finding('difference', `${what}: ${(error as Error).message}`);
  }
}

/** What QEMU reads, all of it: the disk, and each snapshot. `snapshots` as our driver lists them. */
export async function assertQemuReadsAs(made: Made, snapshots: readonly SnapshotInfo[]): Promise<void> {
  const { folder, file, format, model } = made;
  await qemuImg(folder, 'convert', '-f', format, '-O', 'raw', file, 'converted.raw');
  assertSame(await readFile(join(folder, 'converted.raw')), model.bytes, "QEMU's conversion");
  await rm(join(folder, 'converted.raw'));
  await assertCompares(made, file, model.bytes, "QEMU's disk");
  for (const [name, bytes] of model.snapshots) {
    const what = `QEMU's snapshot ${name}`;
    if (format === 'vmdk') {
      const id = snapshots.find((each) => each.name === name)?.id ?? '';
      await assertCompares(made, file.replace('.vmdk', `-${id.padStart(6, '0')}.vmdk`), bytes, what);
    } else if (bytes.length === model.size) {
      await qemuImg(folder, 'convert', '-f', format, '-O', 'raw', '-l', name, file, 'converted.raw');
      assertSame(await readFile(join(folder, 'converted.raw')), bytes, what);
      await rm(join(folder, 'converted.raw'));
    } else {
      // Of another size than the disk a snapshot is read right only after going back to it.
      await copyFile(join(folder, file), join(folder, 'applied.qcow2'));
      await qemuImg(folder, 'snapshot', '-a', name, 'applied.qcow2');
      await assertCompares(made, 'applied.qcow2', bytes, what);
      await rm(join(folder, 'applied.qcow2'));
    }
  }
  await rm(join(folder, EXPECTED), { force: true });
}

export async function assertQemuFindsClean({ folder, file, format }: Made): Promise<void> {
  try {
    await qemuImg(folder, 'check', '-f', format, file);
  } catch (error) {
    throw new Finding('check', (error as Error).message);
  }
}
