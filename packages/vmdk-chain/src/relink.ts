import { type Backing, type BackingReference, unsupported } from '@cowlab/core';
import { type ChainFile, sibling } from './chain-file.ts';
import { imagesOf } from './deletion.ts';
import { NO_PARENT } from './descriptor.ts';
import { Link, VmdkImage } from './image.ts';
import { isSnapshotName } from './vmsd.ts';

/*
 * What the files of a disk with snapshots name as their parent, changed from outside the chain: the release of what is
 * below, and a parent that has moved. Every change is one descriptor's, one sector and a flush, and leaves what the file
 * reads as it was; the disk's own chain comes last, so a crash in between leaves a disk that names what it named.
 *
 *   release   every snapshot has all of its bytes, core has seen to that: each stands alone from now on, then the disk
 *   move      the lowest files of the chains, whose parent is none of ours, get its new name. Snapshots keep their
 *             content, so it must be the same parent: the CID that they have recorded
 */

export interface RelinkHost {
  readonly image: VmdkImage;
  readonly roots: () => readonly VmdkImage[];
  readonly openFile: (file: string, readOnly?: boolean) => Promise<ChainFile>;
  /** The files of all snapshots. */
  readonly listed: readonly string[];
}

/** No snapshot names a parent any more. */
export async function releaseSnapshots(host: RelinkHost): Promise<void> {
  for (const file of host.listed) await relinkFile(host, file, NO_PARENT, undefined, undefined);
}

/** Puts the name of the parent that everything stands on, and of no other, into the files that name it. */
export async function moveParent(
  host: RelinkHost,
  reference: BackingReference | undefined,
  backing: Backing | undefined,
): Promise<void> {
  const { image } = host;
  const parent = backing?.image;
  if (reference === undefined || backing === undefined || !(parent instanceof VmdkImage)) {
    const problem = 'a disk with snapshots can be given only the parent that it has, under its new name';
    throw unsupported(image.file, 'backing file', problem);
  }
  const bottoms = await bottomsOf(host);
  const { cid } = parent.own;
  for (const { file, parentCid } of bottoms) {
    if (parentCid === cid) continue;
    const [wanted, found] = [parentCid, cid].map((one) => one.toString(16).padStart(8, '0'));
    const problem = `${wanted}, but ${reference.file} has CID ${found}: it is not the parent that has moved`;
    throw unsupported(file, 'descriptor.parentCID', problem, { value: parentCid });
  }
  const link = new Link(backing);
  for (const { file } of bottoms.toReversed()) await relinkFile(host, file, cid, reference.file, link);
  // Who opened the disk without its chain has nobody who stands on it.
  await link.release();
}

/** Writes a file's parent into its descriptor; open images of the file go on with it, on `link`. */
async function relinkFile(
  host: RelinkHost,
  file: string,
  parentCid: number,
  hint: string | undefined,
  link: Link | undefined,
): Promise<void> {
  const front = host.image.own;
  const changed = file === front.file ? front : await host.openFile(file, false);
  try {
    if (changed.parentHint === hint && changed.parentCid === parentCid) return;
    await changed.relink(parentCid, hint);
  } finally {
    if (changed !== front) await changed.close();
  }
  for (const image of imagesOf(host, file)) {
    const next = image === host.image ? front : await host.openFile(file);
    const before = image.replace(next, link?.share());
    if (before.own !== next) await before.own.close();
    await before.link?.release();
  }
}

/** The lowest of our files in each chain that goes on below them, that of the disk first. */
async function bottomsOf(host: RelinkHost): Promise<{ file: string; parentCid: number }[]> {
  const { image, listed } = host;
  const seen = new Set<string>();
  const bottoms: { file: string; parentCid: number; parent: string }[] = [];
  // A crash may have left links that are not listed; they have names like those that are.
  const isOurs = (file: string): boolean => listed.includes(file) || isSnapshotName(image.file, file);
  for (const start of [image.file, ...listed]) {
    for (let at: string | undefined = start; at !== undefined && !seen.has(at); ) {
      seen.add(at);
      const opened: ChainFile = at === image.file ? image.own : await host.openFile(at);
      const { file, parentHint, parentCid } = opened;
      if (opened !== image.own) await opened.close();
      at = parentHint === undefined ? undefined : sibling(file, parentHint);
      if (at === undefined || isOurs(at)) continue;
      bottoms.push({ file, parentCid, parent: at });
      at = undefined;
    }
  }
  const [first] = bottoms;
  return bottoms.filter(({ parent }) => parent === first?.parent);
}
