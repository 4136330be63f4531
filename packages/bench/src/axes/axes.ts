import { crc32c, CowlabError, type Disk, type FileIo } from '@cowlab/core';
import { existsSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import type { Subject } from '../formats.ts';
import { copyFolder, createImage, FILL_BYTES, fill, type Lab, openSession, type Session } from '../lab.ts';
import { breathe, interleaved, type Party, toCalls } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import { quantile } from '../statistics.ts';
import { size } from '../wording.ts';
import { patternBytes, randomOffsets, sequentialOffsets, zipfOffsets } from '../workload.ts';
import type { AxisRow } from './schema.ts';

/*
 * G1 to G3 along the other axes of a workload, on real files: pattern, size and depth of requests, flush interval, mapped
 * share, size of the image. One axis at a time away from the centre: random requests of 4 KiB, one after the other, a
 * flush every 64, everything mapped. Each setting begins with copies of the same images, of which one snapshot has just
 * been taken, so that what is written first is the snapshot's; first come the reads. Afterwards all disks must hold the
 * same bytes.
 *
 * Requests that are under way together need calls that do not wait for each other: at the settings of the queue depth the
 * files are read and written by the thread pool.
 */

interface Setting
  extends Pick<
    AxisRow,
    'axis' | 'setting' | 'pattern' | 'requestBytes' | 'depth' | 'flushEvery' | 'mappedShare'
  > {
  readonly imageBytes: number;
  readonly io: FileIo;
}

const CENTRE = 'centre';

/** The centre, and what is different from it, axis by axis. */
export function settingsOf({ axes: sizes, requestBytes, flushEvery }: Profile): Setting[] {
  if (sizes.axes === undefined) return [];
  const { imageBytes, axes } = sizes.axes;
  const centre: Setting = {
    axis: CENTRE,
    setting: `random ${size(requestBytes)}, one at a time, a flush every ${flushEvery}, all of ${size(imageBytes)} mapped`,
    pattern: 'random',
    requestBytes,
    depth: 1,
    flushEvery,
    mappedShare: 1,
    imageBytes,
    io: 'sync',
  };
  const off = (axis: string, setting: string, difference: Partial<Setting>): Setting => ({
    ...centre,
    ...difference,
    axis,
    setting,
  });
  const all = [
    off('pattern', 'sequential', { pattern: 'sequential' }),
    off('pattern', 'Zipf', { pattern: 'zipf' }),
    ...[16, 256].map((times) =>
      off('request size', size(requestBytes * times), { requestBytes: requestBytes * times }),
    ),
    ...[1, 32].map((depth) => off('queue depth', `${depth}, thread pool`, { depth, io: 'threads' })),
    off('flush interval', 'every write', { flushEvery: 1 }),
    off('flush interval', 'one at the end', { flushEvery: 0 }),
    ...[0, 0.5].map((share) => off('mapped share', `${share * 100} %`, { mappedShare: share })),
    ...[4, 16].map((part) =>
      off('image size', size(imageBytes / part), { imageBytes: Math.floor(imageBytes / part) }),
    ),
  ];
  return [centre, ...all.filter(({ axis }) => axes?.includes(axis) ?? true)];
}

export async function measureAxes(
  lab: Lab,
  subjects: readonly Subject[],
  profile: Profile,
  seed: number,
  tick: (done: number) => void,
): Promise<AxisRow[]> {
  const settings = settingsOf(profile);
  const rows: AxisRow[] = [];
  for (const [index, setting] of settings.entries()) {
    tick(index / settings.length);
    rows.push(...(await measureSetting(lab, subjects, setting, profile, seed)));
  }
  for (const { imageBytes, mappedShare } of settings) {
    for (const subject of subjects) await lab.discard(lab.path(nameOf(subject, imageBytes, mappedShare)));
  }
  return rows;
}

function nameOf({ name }: Subject, imageBytes: number, mappedShare: number): string {
  return `axes-${name}-${imageBytes}-${mappedShare}`;
}

interface Opened {
  readonly subject: Subject;
  readonly folder: string;
  readonly snapshots: number;
  readonly session: Session;
}

async function measureSetting(
  lab: Lab,
  subjects: readonly Subject[],
  setting: Setting,
  profile: Profile,
  seed: number,
): Promise<AxisRow[]> {
  const opened: Opened[] = [];
  for (const subject of subjects) opened.push(await openCopy(lab, subject, setting));
  const offsets = offsetsOf(setting, profile, seed);
  const rows: AxisRow[] = [];
  for (const operation of ['read', 'write'] as const) {
    const latencies = opened.map((): number[] => []);
    const parties = opened.map(({ session }, index) => {
      session.folder.reset();
      return operation === 'read'
        ? readingLanes(session.disk, offsets, setting, latencies[index]!)
        : writingLanes(session.disk, offsets, setting, latencies[index]!);
    });
    const times = await interleaved(parties, Infinity);
    for (const [index, { subject, snapshots, session }] of opened.entries()) {
      const { io: _, ...about } = setting;
      rows.push({
        format: subject.name,
        snapshots,
        ...about,
        operation,
        ...times[index]!,
        calls: toCalls(session.folder.reset()),
        latencies: SHARES.map((share) => ({ share, micros: quantile(latencies[index]!, share) })),
      });
    }
  }
  await assertAlike(opened, setting);
  for (const { session, folder } of opened) {
    await session.disk.close();
    await lab.discard(folder);
  }
  return rows;
}

const SHARES: readonly number[] = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999];

/** A copy of the image that is mapped so far, made when it is not there yet; with a snapshot, where there are any. */
async function openCopy(lab: Lab, subject: Subject, setting: Setting): Promise<Opened> {
  const { imageBytes, mappedShare, io } = setting;
  const filled = lab.path(nameOf(subject, imageBytes, mappedShare));
  if (!existsSync(filled)) await makeFilled(subject, filled, setting);
  const folder = `${filled}-copy`;
  await copyFolder(filled, folder);
  const session = await openSession(subject, folder, {}, io);
  const snapshots = subject.driver.capabilities.snapshots === 'none' ? 0 : 1;
  if (snapshots > 0) await session.disk.snapshots.create('held');
  return { subject, folder, snapshots, session };
}

/** Every second MiB at a share of one half. */
async function makeFilled(
  subject: Subject,
  folder: string,
  { imageBytes, mappedShare }: Setting,
): Promise<void> {
  await createImage(subject, folder, imageBytes);
  const { disk } = await openSession(subject, folder);
  for (let at = 0, mapped = 0; at < imageBytes; at += FILL_BYTES) {
    if (mapped >= mappedShare * (at + FILL_BYTES)) continue;
    await fill(disk, at, Math.min(FILL_BYTES, imageBytes - at), () => undefined);
    mapped += FILL_BYTES;
  }
  await disk.close();
  await breathe();
}

const patterns = { sequential: sequentialOffsets, random: randomOffsets, zipf: zipfOffsets };

function offsetsOf(
  { pattern, requestBytes, imageBytes }: Setting,
  { axes }: Profile,
  seed: number,
): number[] {
  const { operations = 0, bytes = 0 } = axes.axes ?? {};
  const count = Math.min(operations, Math.floor(bytes / requestBytes));
  return patterns[pattern](seed, count, imageBytes, requestBytes);
}

/** Requests of one round of reads; of writes so many are between two flushes. */
const ROUND = 64;

type Request = (offset: number, lane: number) => void | Promise<void>;

/** So many requests under way as the depth says; each tells how long it took. */
async function inLanes(
  places: readonly number[],
  depth: number,
  request: Request,
  latencies: number[],
): Promise<void> {
  let next = 0;
  const run = async (lane: number): Promise<void> => {
    while (next < places.length) {
      const offset = places[next++]!;
      const started = performance.now();
      const pending = request(offset, lane);
      if (pending instanceof Promise) await pending;
      latencies.push((performance.now() - started) * 1000);
    }
  };
  await Promise.all(Array.from({ length: depth }, (_, lane) => run(lane)));
}

function readingLanes(
  disk: Disk,
  offsets: readonly number[],
  { depth, requestBytes }: Setting,
  latencies: number[],
): Party {
  const targets = Array.from({ length: depth }, () => new Uint8Array(requestBytes));
  return {
    rounds: Math.ceil(offsets.length / ROUND),
    async batch(round) {
      const places = offsets.slice(round * ROUND, (round + 1) * ROUND);
      await inLanes(places, depth, (offset, lane) => disk.read(offset, targets[lane]!), latencies);
      return places.length;
    },
  };
}

function writingLanes(
  disk: Disk,
  offsets: readonly number[],
  { depth, requestBytes, flushEvery }: Setting,
  latencies: number[],
): Party {
  const source = patternBytes(offsets.length, requestBytes);
  const each = flushEvery || ROUND;
  const rounds = Math.ceil(offsets.length / each);
  return {
    rounds,
    async batch(round) {
      const places = offsets.slice(round * each, (round + 1) * each);
      await inLanes(places, depth, (offset) => disk.write(offset, source), latencies);
      if (flushEvery > 0 || round === rounds - 1) await disk.flush();
      return places.length;
    },
  };
}

/** Numbers of a disk that lost a write are worth nothing. */
async function assertAlike(opened: readonly Opened[], { axis, setting }: Setting): Promise<void> {
  const sums: number[] = [];
  for (const { session } of opened) sums.push(await checksumOf(session.disk));
  const odd = sums.findIndex((sum) => sum !== sums[0]);
  if (odd < 0) return;
  const { name } = opened[odd]!.subject;
  const message = `bench: ${axis}, ${setting}: the disk of ${name} does not hold what that of ${opened[0]!.subject.name} does`;
  throw new CowlabError('ERR_CORRUPT', message, { file: name });
}

async function checksumOf(disk: Disk): Promise<number> {
  const bytes = new Uint8Array(FILL_BYTES);
  let sum = 0;
  for (let at = 0; at < disk.size; at += FILL_BYTES) {
    const piece = bytes.subarray(0, Math.min(FILL_BYTES, disk.size - at));
    await disk.read(at, piece);
    sum = crc32c(piece, sum);
  }
  return sum;
}
