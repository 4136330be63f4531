import { mkdir } from 'node:fs/promises';
import { performance } from 'node:perf_hooks';
import {
  createDisk,
  type Disk,
  FileFolder,
  type ImageLocation,
  isCowlabError,
  openDisk,
  prefetch,
} from '@cowlab/core';
import { type Subject, yardstick } from '../formats.ts';
import { IMAGE_FILE, type Lab } from '../lab.ts';
import { breathe, shuffled } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { BaseCopyRow, Omission } from '../schema.ts';
import { patternBytes, seededRandom } from '../workload.ts';

/*
 * How long does it take to do without a base? A raw base, all data, is copied into an empty image over it: at once
 * (`populate`), or beside a guest that does not come (`prefetch`), flushed, and released. Beside a copy of the file
 * without any format. In every round each takes its turn, in another order each time.
 */
export async function measureBaseCopies(
  lab: Lab,
  subjects: readonly Subject[],
  profile: Profile,
): Promise<{ readonly rows: BaseCopyRow[]; readonly omissions: Omission[] }> {
  const directory = lab.path('base-copies');
  await mkdir(directory);
  const folder = new FileFolder(directory);
  await writeBase(folder, profile.copyBytes);
  const able: Subject[] = [];
  const omissions: Omission[] = [];
  for (const subject of subjects) {
    const reason = await whyNot(folder, subject);
    if (reason === undefined) able.push(subject);
    else omissions.push({ scenario: 'copies of a base', format: subject.name, reason });
  }
  const contenders: Contender[] = [
    { subject: yardstick, row: emptyRow(yardstick, 'file copy', profile) },
    ...able.flatMap((subject) =>
      (['populate', 'prefetch'] as const).map((method) => ({
        subject,
        row: emptyRow(subject, method, profile),
      })),
    ),
  ];
  const random = seededRandom(profile.copyRounds);
  for (let round = 0; round < profile.copyRounds; round++) {
    for (const contender of shuffled(contenders, random)) {
      await (contender.row.method === 'file copy'
        ? copyFile(folder, contender)
        : copyBase(folder, contender));
      await breathe();
    }
  }
  await lab.discard(directory);
  return { rows: contenders.map(({ row }) => row), omissions };
}

const BASE_FILE = 'base.raw';
const PIECE_BYTES = 1024 * 1024;

interface Contender {
  readonly subject: Subject;
  readonly row: BaseCopyRow;
}

function emptyRow({ name }: Subject, method: BaseCopyRow['method'], { copyBytes }: Profile): BaseCopyRow {
  return { format: name, method, bytes: copyBytes, milliseconds: [], releaseMs: [] };
}

async function writeBase(folder: FileFolder, bytes: number): Promise<void> {
  const storage = await folder.create(BASE_FILE);
  const piece = patternBytes(1, PIECE_BYTES);
  for (let at = 0; at < bytes; at += PIECE_BYTES) {
    await storage.write(at, piece.subarray(0, Math.min(PIECE_BYTES, bytes - at)));
  }
  await storage.flush();
  await storage.close();
}

/** Not every format can have a raw base. */
async function whyNot(folder: FileFolder, subject: Subject): Promise<string | undefined> {
  try {
    await createOver(folder, subject);
  } catch (error) {
    if (!isCowlabError(error)) throw error;
    return error.message;
  }
  await removeImage(folder);
  return undefined;
}

async function createOver(folder: FileFolder, { driver, create }: Subject): Promise<ImageLocation> {
  const place = { folder, file: IMAGE_FILE };
  const backing = { file: BASE_FILE, format: yardstick.name };
  await createDisk(place, { driver, backing, options: create });
  return place;
}

async function removeImage(folder: FileFolder): Promise<void> {
  for (const name of await folder.list()) if (name !== BASE_FILE) await folder.remove(name);
}

async function copyFile(folder: FileFolder, { row }: Contender): Promise<void> {
  const source = await folder.open(BASE_FILE, { readOnly: true });
  const target = await folder.create(IMAGE_FILE);
  const piece = new Uint8Array(PIECE_BYTES);
  const started = performance.now();
  for (let at = 0; at < row.bytes; at += PIECE_BYTES) {
    const part = piece.subarray(0, Math.min(PIECE_BYTES, row.bytes - at));
    await source.read(at, part);
    await target.write(at, part);
  }
  await target.flush();
  row.milliseconds.push(performance.now() - started);
  await source.close();
  await target.close();
  await removeImage(folder);
}

async function copyBase(folder: FileFolder, { subject, row }: Contender): Promise<void> {
  const { driver, open } = subject;
  const disk = await openDisk(await createOver(folder, subject), {
    drivers: [driver],
    format: driver.name,
    options: open,
  });
  const started = performance.now();
  await (row.method === 'populate' ? disk.populate() : prefetch(disk));
  await disk.flush();
  row.milliseconds.push(performance.now() - started);
  if (driver.capabilities.releaseBacking) row.releaseMs.push(await timeRelease(disk));
  await disk.close();
  await removeImage(folder);
}

async function timeRelease(disk: Disk): Promise<number> {
  const started = performance.now();
  await disk.releaseBacking();
  return performance.now() - started;
}
