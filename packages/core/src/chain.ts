import type { Disk } from './disk.ts';
import type { BackingReference, ImageInfo } from './driver.ts';
import { BackingGate } from './gate.ts';
import { type Formats, locate, type ImageLocation, openDisk } from './open.ts';

/** One image of a chain. */
export interface ChainLink {
  /** As the folder of the topmost image knows it. */
  readonly file: string;
  /** Who the file is, whatever it is called. */
  readonly identity: string;
  /** What the image above says of it; undefined for the topmost one. */
  readonly named?: BackingReference;
}

async function infoOf(disk: Disk): Promise<ImageInfo> {
  try {
    return await disk.info();
  } finally {
    await disk.close();
  }
}

/** The images from `location` down, at most to the one that `isLast` says. Looks at each by itself, and takes no lock. */
export async function chainOf(
  location: ImageLocation,
  options: Formats & { readonly format?: string },
  isLast: (link: ChainLink, depth: number) => boolean,
): Promise<ChainLink[]> {
  const { folder, file: top } = locate(location, options.io);
  const { drivers, gate: policy } = options;
  const links: ChainLink[] = [{ file: top, identity: await folder.identify(top) }];
  let gate = BackingGate.above(folder, policy);
  for (let link = links[0]!; !isLast(link, links.length - 1); ) {
    const { file, identity, named } = link;
    const format = named === undefined ? options.format : named.format;
    const disk = await openDisk(
      { folder, file },
      {
        readOnly: true,
        forceShare: true,
        withoutBacking: true,
        ...(drivers && { drivers }),
        ...(format !== undefined && { format }),
      },
    );
    const { backing } = await infoOf(disk);
    if (backing === undefined) break;
    gate = await gate.below(file, identity);
    const next = await gate.admit(file, backing, 'backing file');
    link = { file: next.name, identity: next.identity, named: backing };
    links.push(link);
  }
  return links;
}
