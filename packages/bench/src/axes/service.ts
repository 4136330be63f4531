import type { Disk } from '@cowlab/core';
import { performance } from 'node:perf_hooks';
import type { Subject } from '../formats.ts';
import {
  createdAt,
  createImage,
  fill,
  IMAGE_FILE,
  type Lab,
  occupiedBytes,
  openSession,
  type Session,
  warmUp,
} from '../lab.ts';
import { breathe, interleaved, toCalls } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import { readingParty } from '../scenarios/requests.ts';
import { overwriteSome } from '../scenarios/snapshots.ts';
import { patternBytes, randomOffsets } from '../workload.ts';
import type { ServiceRow } from './schema.ts';

/*
 * What users ask of an image that has had snapshots for a while: how long open and check take, how fast an old snapshot
 * reads beside the disk, how long it takes to tell what differs from it, how many bytes were written for one of the
 * guest, and what the host has back when a snapshot goes. Each question is asked of all formats in turn, and again.
 */
export async function measureServices(
  lab: Lab,
  subjects: readonly Subject[],
  profile: Profile,
  seed: number,
  tick: (done: number) => void,
): Promise<ServiceRow[]> {
  const able = subjects.filter(
    ({ driver: { capabilities } }) =>
      capabilities.snapshots !== 'none' && capabilities.maxSnapshots > profile.axes.service.snapshots + 1,
  );
  const rows: ServiceRow[] = [];
  for (const [index, subject] of able.entries()) {
    tick(index / able.length);
    const folder = lab.path(`service-${subject.name}`);
    rows.push(await serve(subject, folder, profile, seed));
    await lab.discard(folder);
    await breathe();
  }
  return rows;
}

const FIRST = 's0';

async function serve(subject: Subject, folder: string, profile: Profile, seed: number): Promise<ServiceRow> {
  const { snapshots, rounds } = profile.axes.service;
  const written = await age(subject, folder, profile, seed);
  const openMs: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const started = performance.now();
    const { disk } = await openSession(subject, folder);
    openMs.push(performance.now() - started);
    await disk.close();
  }
  const session = await openSession(subject, folder);
  const row = {
    format: subject.name,
    snapshots,
    ...written,
    openMs,
    ...(await check(session, rounds)),
    ...(await readOld(session, profile, seed)),
    ...(subject.driver.capabilities.diff && { diff: await differ(session, rounds) }),
    deletion: await deleteHeld(session, folder),
  };
  await session.disk.close();
  return row;
}

/** Everything written, then a snapshot after some random writes, over and over. */
async function age(
  subject: Subject,
  folder: string,
  profile: Profile,
  seed: number,
): Promise<Pick<ServiceRow, 'guestBytes' | 'writing'>> {
  const { imageBytes, snapshots, writes } = profile.axes.service;
  await createImage(subject, folder, imageBytes);
  const session = await openSession(subject, folder);
  const { disk } = session;
  await fill(disk, 0, imageBytes, () => undefined);
  session.folder.reset();
  for (let index = 0; index < snapshots; index++) {
    await disk.snapshots.create(`s${index}`, { createdAt });
    await overwriteSome(disk, writes, profile.requestBytes, seed + index);
    if (index % 16 === 0) await breathe();
  }
  const writing = toCalls(session.folder.reset());
  await disk.close();
  return { guestBytes: snapshots * writes * profile.requestBytes, writing };
}

async function check(
  { disk, folder }: Session,
  rounds: number,
): Promise<Pick<ServiceRow, 'checkMs' | 'checking'>> {
  const checkMs: number[] = [];
  let checking = toCalls(folder.reset());
  for (let round = 0; round < rounds; round++) {
    const started = performance.now();
    const { corruptions } = await disk.check();
    checkMs.push(performance.now() - started);
    if (corruptions > 0) throw new Error(`${IMAGE_FILE} is corrupt: its numbers mean nothing`);
    checking = toCalls(folder.reset());
  }
  return { checkMs, checking };
}

async function readOld(
  { disk, folder }: Session,
  profile: Profile,
  seed: number,
): Promise<Pick<ServiceRow, 'snapshotOpenMs' | 'snapshotReads'>> {
  const { rounds, reads } = profile.axes.service;
  const snapshotOpenMs: number[] = [];
  let old: Disk | undefined;
  for (let round = 0; round < rounds; round++) {
    await old?.close();
    const started = performance.now();
    old = await disk.snapshots.open(FIRST);
    snapshotOpenMs.push(performance.now() - started);
  }
  for (const each of [disk, old!]) await warmUp(each);
  const offsets = randomOffsets(seed, reads, disk.size, profile.requestBytes);
  const batch = Math.ceil(reads / READ_ROUNDS);
  const parties = [disk, old!].map((each) =>
    readingParty(each, offsets, profile.requestBytes, batch, READ_ROUNDS),
  );
  const [before, after] = await interleaved(parties, Infinity);
  folder.reset();
  for (const offset of offsets) await old!.read(offset, new Uint8Array(profile.requestBytes));
  const { reads: calls } = toCalls(folder.reset()).purposes.data;
  await old!.close();
  return {
    snapshotOpenMs,
    snapshotReads: { before: before!.roundMicros, after: after!.roundMicros, callsAfter: calls / reads },
  };
}

const READ_ROUNDS = 16;

async function differ({ disk, folder }: Session, rounds: number): Promise<NonNullable<ServiceRow['diff']>> {
  const milliseconds: number[] = [];
  let bytes = 0;
  for (let round = 0; round < rounds; round++) {
    folder.reset();
    bytes = 0;
    const started = performance.now();
    for await (const { length } of disk.snapshots.diff(FIRST)) bytes += length;
    milliseconds.push(performance.now() - started);
  }
  return { milliseconds, calls: toCalls(folder.reset()), bytes };
}

/** A quarter of the disk is written, held by a snapshot, and written again: the snapshot alone has these bytes then. */
async function deleteHeld({ disk }: Session, folder: string): Promise<ServiceRow['deletion']> {
  const heldBytes = Math.floor(disk.size / 4 / PIECE_BYTES) * PIECE_BYTES;
  const write = async (seed: number): Promise<void> => {
    const piece = patternBytes(seed, PIECE_BYTES);
    for (let at = 0; at < heldBytes; at += PIECE_BYTES) await disk.write(at, piece);
    await disk.flush();
  };
  await write(1);
  await disk.snapshots.create('held', { createdAt });
  await write(2);
  const before = await occupiedBytes(folder);
  const started = performance.now();
  await disk.snapshots.delete('held');
  await disk.flush();
  const milliseconds = performance.now() - started;
  return { heldBytes, returnedBytes: before - (await occupiedBytes(folder)), milliseconds };
}

const PIECE_BYTES = 1024 * 1024;
