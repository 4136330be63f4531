import { type Backing, CowlabError, corrupt, Disk, isCowlabError, type LockMode } from '@cowlab/core';
import { ChainFile, sibling } from './chain-file.ts';
import { Link, type Surroundings, VmdkImage } from './image.ts';

/*
 * How files become a chain. Opening an image opens its parent through core's gate, which opens that one's
 * parent, and so on: an instance of the driver for each link. Files of the image's own snapshots need no gate,
 * and those that are open already (in the disk's chain, or in that of an opened snapshot) are shared.
 */

const HINT_FIELD = 'descriptor.parentFileNameHint';

/** Throws `ERR_CORRUPT` when the parent's content is not the one that the child was made from. */
function assertParent(child: ChainFile, backing: Backing): void {
  const parent = backing.image;
  if (!(parent instanceof VmdkImage)) return;
  const found = parent.own.cid;
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

/** The parent of an opened file, through the gate; undefined without one. */
async function openParent(surroundings: Surroundings, chainFile: ChainFile): Promise<Link | undefined> {
  const hint = chainFile.parentHint;
  if (hint === undefined) return undefined;
  let backing: Backing;
  try {
    const { pool, context } = surroundings;
    const open = (): Promise<Backing> => context.openBacking({ file: hint, format: 'vmdk' }, HINT_FIELD);
    backing = await (pool?.openingLink(sibling(chainFile.file, hint), open) ?? open());
  } catch (error) {
    throw missing(chainFile.file, hint, error);
  }
  try {
    assertParent(chainFile, backing);
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
  const { context, cacheBytes } = surroundings;
  const { readOnly, forRepair, lock } = context;
  const chainFile = await ChainFile.open(surroundings, file, { readOnly, forRepair, lock, cacheBytes });
  try {
    await surroundings.pool?.opened(file, chainFile.storages[0]);
    // As long as the file is open anyway.
    if (surroundings.pool !== undefined && readOnly) await chainFile.onlySparse?.filledTables();
    return new VmdkImage(surroundings, chainFile, await openParent(surroundings, chainFile));
  } catch (error) {
    await chainFile.close();
    throw error;
  }
}

/** A frozen image as something to stand on. */
export function linkOf(surroundings: Surroundings, chainFile: ChainFile, below: Link | undefined): Link {
  const image = new VmdkImage(surroundings, chainFile, below);
  return new Link(new Disk(surroundings.driver, image, chainFile.file, true));
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
  child: ChainFile,
  open: ReadonlyMap<string, Link>,
  own: ReadonlySet<string>,
): Promise<Link | undefined> {
  const { cacheBytes } = surroundings;
  const opened: ChainFile[] = [];
  let link: Link | undefined;
  try {
    for (let chainFile = child; ; ) {
      const hint = chainFile.parentHint;
      if (hint === undefined) break;
      const file = sibling(chainFile.file, hint);
      const shared = open.get(file);
      if (shared !== undefined || !own.has(file)) {
        link = shared?.share() ?? (await openParent(surroundings, chainFile));
        break;
      }
      if (file === child.file || opened.some((other) => other.file === file)) {
        throw new CowlabError(
          'ERR_BACKING_CYCLE',
          `${chainFile.file}: ${HINT_FIELD}: ${hint} is in its own chain`,
          {
            file: chainFile.file,
            field: HINT_FIELD,
            value: hint,
          },
        );
      }
      try {
        chainFile = await ChainFile.open(surroundings, file, {
          readOnly: true,
          lock: belowLock(surroundings),
          cacheBytes,
        });
      } catch (error) {
        throw missing(chainFile.file, hint, error);
      }
      opened.push(chainFile);
    }
    while (opened.length > 0) {
      const chainFile = opened.at(-1)!;
      if (link !== undefined) assertParent(chainFile, link.backing);
      link = linkOf(surroundings, chainFile, link);
      opened.pop();
    }
    if (link !== undefined) assertParent(child, link.backing);
    return link;
  } catch (error) {
    for (const chainFile of opened) await chainFile.close();
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
  openFile: (file: string) => Promise<ChainFile>,
): Promise<string[]> {
  const parents = new Map<string, string | undefined>();
  const note = (chainFile: ChainFile): void => {
    const hint = chainFile.parentHint;
    parents.set(chainFile.file, hint === undefined ? undefined : sibling(chainFile.file, hint));
  };
  for (const { own } of chain) note(own);
  for (const one of listed) {
    let at: string | undefined = one;
    while (at !== undefined && !parents.has(at)) {
      const chainFile: ChainFile | undefined = await orNone(openFile(at));
      if (chainFile === undefined) break;
      note(chainFile);
      await chainFile.close();
      at = parents.get(at);
    }
  }
  return [...parents].filter(([, parent]) => parent === file).map(([child]) => child);
}

/** Undefined for a file that is gone or is no disk: it cannot stand on one of ours. */
async function orNone(opening: Promise<ChainFile>): Promise<ChainFile | undefined> {
  try {
    return await opening;
  } catch (error) {
    if (isCowlabError(error, 'ERR_NOT_FOUND') || isCowlabError(error, 'ERR_UNSUPPORTED')) return undefined;
    throw error;
  }
}
