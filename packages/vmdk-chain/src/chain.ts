import path from 'node:path';
import { type Backing, CowlabError, corrupt, Disk, isCowlabError, type LockMode } from '@cowlab/core';
import { SparseExtent } from './extent.ts';
import { Link, type Surroundings, VmdkImage } from './image.ts';

/*
 * How files become a chain. Opening an image opens its parent through core's gate, which opens that one's
 * parent, and so on: an instance of the driver for each link. Files of the image's own snapshots need no gate,
 * and those that are open already (in the disk's chain, or in that of an opened snapshot) are shared.
 */

const HINT_FIELD = 'descriptor.parentFileNameHint';

/** The path of a file that `file` names. */
export function sibling(file: string, name: string): string {
  return path.isAbsolute(name) ? path.normalize(name) : path.join(path.dirname(file), name);
}

/** Throws `ERR_CORRUPT` when the parent's content is not the one that the child was made from. */
function assertParent(child: SparseExtent, backing: Backing): void {
  const parent = backing.image;
  if (!(parent instanceof VmdkImage)) return;
  const found = parent.extent.cid;
  if (child.acceptsParent(found)) return;
  const [wanted, actual] = [child.parentCid, found].map((cid) => cid.toString(16).padStart(8, '0'));
  throw corrupt(
    child.file,
    'descriptor.parentCID',
    `${wanted}, but ${parent.file} has CID ${actual}: it was changed after this child was made`,
    { value: child.parentCid },
  );
}

function missing(from: string, hint: string, cause: unknown): unknown {
  if (!isCowlabError(cause, 'ERR_NOT_FOUND')) return cause;
  const data = { file: from, field: HINT_FIELD, value: hint };
  return new CowlabError('ERR_BACKING_MISSING', `${from}: ${HINT_FIELD}: no such file: ${hint}`, data, cause);
}

/** The parent of an opened extent, through the gate; undefined without one. */
async function openParent(surroundings: Surroundings, extent: SparseExtent): Promise<Link | undefined> {
  const hint = extent.parentHint;
  if (hint === undefined) return undefined;
  let backing: Backing;
  try {
    backing = await surroundings.context.openBacking({ file: hint, format: 'vmdk' }, HINT_FIELD);
  } catch (error) {
    throw missing(extent.file, hint, error);
  }
  try {
    assertParent(extent, backing);
  } catch (error) {
    await backing.close();
    throw error;
  }
  return new Link(backing);
}

/** The lock for files under the disk's own: as core takes it for a backing. */
export function belowLock({ context }: Surroundings): LockMode {
  return context.lock === 'none' ? 'none' : 'shared';
}

/** Opens a file and everything below it. Rejects with `ERR_BACKING_…` too; nothing stays open then. */
export async function openImage(surroundings: Surroundings, file: string): Promise<VmdkImage> {
  const { folder, context, cacheBytes } = surroundings;
  const { readOnly, lock } = context;
  const extent = await SparseExtent.open(folder, file, { readOnly, lock, cacheBytes });
  try {
    return new VmdkImage(surroundings, extent, await openParent(surroundings, extent));
  } catch (error) {
    await extent.storage.close();
    throw error;
  }
}

/** A frozen image as something to stand on. */
export function linkOf(surroundings: Surroundings, extent: SparseExtent, below: Link | undefined): Link {
  const image = new VmdkImage(surroundings, extent, below);
  return new Link(new Disk(surroundings.driver, image, extent.file, true));
}

/** The links that the given images stand on, by file. */
export function linksBelow(images: Iterable<VmdkImage>): Map<string, Link> {
  const links = new Map<string, Link>();
  for (const top of images) {
    for (const image of top.chain()) {
      if (image.link !== undefined && image.parent !== undefined) links.set(image.parent.file, image.link);
    }
  }
  return links;
}

/**
 * What `child` stands on: links that are open already, files of `own`, and whatever is below those through the
 * gate. Goes down in a loop, so that a chain of a thousand is no deep recursion.
 */
export async function openBelow(
  surroundings: Surroundings,
  child: SparseExtent,
  open: ReadonlyMap<string, Link>,
  own: ReadonlySet<string>,
): Promise<Link | undefined> {
  const { folder, cacheBytes } = surroundings;
  const opened: SparseExtent[] = [];
  let link: Link | undefined;
  try {
    for (let extent = child; ; ) {
      const hint = extent.parentHint;
      if (hint === undefined) break;
      const file = sibling(extent.file, hint);
      const shared = open.get(file);
      if (shared !== undefined || !own.has(file)) {
        link = shared?.share() ?? (await openParent(surroundings, extent));
        break;
      }
      if (file === child.file || opened.some((other) => other.file === file)) {
        throw new CowlabError(
          'ERR_BACKING_CYCLE',
          `${extent.file}: ${HINT_FIELD}: ${hint} is in its own chain`,
          {
            file: extent.file,
            field: HINT_FIELD,
            value: hint,
          },
        );
      }
      try {
        extent = await SparseExtent.open(folder, file, {
          readOnly: true,
          lock: belowLock(surroundings),
          cacheBytes,
        });
      } catch (error) {
        throw missing(extent.file, hint, error);
      }
      opened.push(extent);
    }
    while (opened.length > 0) {
      const extent = opened.at(-1)!;
      if (link !== undefined) assertParent(extent, link.backing);
      link = linkOf(surroundings, extent, link);
      opened.pop();
    }
    if (link !== undefined) assertParent(child, link.backing);
    return link;
  } catch (error) {
    for (const extent of opened) await extent.storage.close();
    await link?.release();
    throw error;
  }
}

/**
 * Files that stand on `file`: in the open chain, listed as snapshots, or between a listed one and those. `openFile`
 * opens one that is not in the chain.
 */
export async function childrenOf(
  file: string,
  chain: readonly VmdkImage[],
  listed: readonly string[],
  openFile: (file: string) => Promise<SparseExtent>,
): Promise<string[]> {
  const parents = new Map<string, string | undefined>();
  const note = (extent: SparseExtent): void => {
    const hint = extent.parentHint;
    parents.set(extent.file, hint === undefined ? undefined : sibling(extent.file, hint));
  };
  for (const { extent } of chain) note(extent);
  for (const one of listed) {
    let at: string | undefined = one;
    while (at !== undefined && !parents.has(at)) {
      const extent: SparseExtent | undefined = await orNone(openFile(at));
      if (extent === undefined) break;
      note(extent);
      await extent.storage.close();
      at = parents.get(at);
    }
  }
  return [...parents].filter(([, parent]) => parent === file).map(([child]) => child);
}

/** Undefined for a file that is gone or is no sparse extent: it cannot stand on one of ours. */
async function orNone(opening: Promise<SparseExtent>): Promise<SparseExtent | undefined> {
  try {
    return await opening;
  } catch (error) {
    if (isCowlabError(error, 'ERR_NOT_FOUND') || isCowlabError(error, 'ERR_UNSUPPORTED')) return undefined;
    throw error;
  }
}
