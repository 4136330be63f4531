import { pattern, Random } from '@cowlab/conformance';
import type { BlockDriver, Disk } from '@cowlab/core';
import { newSite, type Site } from './serving.ts';

/* What the disk of a test holds: pieces of 1 MiB, each made in another way, and small writes across them. */

export const MiB = 1024 * 1024;
const kinds = ['data', 'zeroed', 'discarded', 'untouched'] as const;

interface Piece {
  readonly kind: (typeof kinds)[number];
  readonly offset: number;
  readonly length: number;
}

export interface Contents {
  /** What the disk reads as. */
  readonly bytes: Buffer;
  readonly pieces: readonly Piece[];
}

/** The last piece is data, and ends in the middle of a unit of every format. */
const size = 16 * MiB + 1536;

function piecesOf(length: number): Piece[] {
  const pieces: Piece[] = [];
  for (let offset = 0; offset < length; offset += MiB) {
    const kind = kinds[(offset / MiB) % kinds.length]!;
    pieces.push({ kind, offset, length: Math.min(MiB, length - offset) });
  }
  return pieces;
}

/** Fills an empty disk. */
export async function fill(disk: Disk, seed: number): Promise<Contents> {
  const random = new Random(seed);
  const bytes = Buffer.alloc(disk.size);
  const pieces = piecesOf(disk.size);
  const write = async (offset: number, source: Uint8Array): Promise<void> => {
    await disk.write(offset, source);
    bytes.set(source, offset);
  };
  for (const { kind, offset, length } of pieces) {
    if (kind === 'untouched') continue;
    await write(offset, pattern(seed + offset, length));
    if (kind === 'data') continue;
    if (kind === 'zeroed') await disk.writeZeroes(offset, length);
    else await disk.discard(offset, length);
    bytes.fill(0, offset, offset + length);
  }
  const data = pieces.filter(({ kind, length }) => kind === 'data' && length === MiB);
  for (let count = 0; count < 20; count++) {
    const length = 1 + random.below(5000);
    await write(random.pick(data).offset + random.below(MiB - length), pattern(seed + count, length));
  }
  return { bytes, pieces };
}

/** A disk with contents, served. */
export async function servedContents(driver: BlockDriver): Promise<{ site: Site; contents: Contents }> {
  const site = await newSite(driver, size);
  const contents = await site.opened((disk) => fill(disk, 1));
  await site.serve();
  return { site, contents };
}
