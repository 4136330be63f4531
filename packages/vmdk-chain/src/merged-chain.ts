import type { Awaitable, ReadSource, ResolvedExtent, Storage } from '@cowlab/core';
import type { SparseExtent } from './extent.ts';
import type { VmdkImage } from './image.ts';
import { GRAIN_TABLE_BYTES, GRAIN_TABLE_ENTRIES, SECTOR, ZEROED_GRAIN } from './layout.ts';
import type { PooledFolder } from './pooled-folder.ts';
import { TablePieces } from './table-stream.ts';

/*
 * What is below a disk, as one map: which link has a grain, and where in its file. A read goes to that link at once,
 * however many there are.
 *
 *   group    the grains of one grain table, of all links; two numbers for each grain. Merged from the top down when it
 *            is first asked for, with some of its neighbours, until no grain is left open
 *   slots    as in tables.ts: group i may only lie in slot i mod the number of slots
 *   filled   runs of tables of a link that are not holes of its file, looked up while it is open for the first time. A
 *            link that nothing was written to there is passed over without being opened again
 *
 * The map is of what links say, which changes only with the chain: then it is thrown away (PooledFolder.epoch). A chain
 * with a link that is not one sparse extent, or of another size or grain, has no map, and is walked.
 */

interface Group {
  readonly index: number;
  /** Which link has a grain, counted from 1; 0: none. */
  readonly owners: Uint16Array;
  /** Its sector there, or `ZEROED_GRAIN`. */
  readonly sectors: Uint32Array;
}

const GROUP_BYTES: number = GRAIN_TABLE_ENTRIES * 6;
const MIN_SLOTS = 16;
/** Groups that are merged together: their tables lie together, and a file is opened once for them. */
const TOGETHER = 16;
const MAX_LINKS = 65_535;

export class MergedChain implements ReadSource {
  readonly #image: VmdkImage;
  readonly #pool: PooledFolder;
  readonly #slotLimit: number;
  #slots: (Group | undefined)[] = [];
  #epoch = -1;
  #links: readonly SparseExtent[] = [];
  readonly #loading = new Map<number, Promise<void>>();

  constructor(image: VmdkImage, pool: PooledFolder, cacheBytes: number) {
    this.#image = image;
    this.#pool = pool;
    this.#slotLimit = Math.max(MIN_SLOTS, Math.floor(cacheBytes / GROUP_BYTES));
  }

  get size(): number {
    return this.#image.link?.backing.size ?? 0;
  }

  /** Whether the links are of one shape; looked at again when the chain has changed. */
  get isUsable(): boolean {
    if (this.#epoch !== this.#pool.epoch) this.#begin();
    return this.#links.length > 0;
  }

  get residentBytes(): number {
    let bytes = this.#slots.length * 8;
    for (const group of this.#slots) if (group !== undefined) bytes += GROUP_BYTES;
    return bytes;
  }

  read(offset: number, target: Uint8Array): Awaitable<void> {
    const waiting: Promise<void>[] = [];
    let done = 0;
    while (done < target.length) {
      const group = this.#held(this.#groupAt(offset + done));
      if (group === undefined) return this.#readRest(offset, target, done, waiting);
      const run = this.#run(group, offset + done, target.length - done);
      const part = target.subarray(done, done + run.length);
      if (run.storage === undefined) part.fill(0);
      else {
        const fetched = run.storage.read(run.hostOffset, part);
        if (fetched instanceof Promise) waiting.push(fetched);
      }
      done += run.length;
    }
    if (waiting.length > 0) return allOf(waiting);
  }

  async resolve(offset: number, length: number): Promise<ResolvedExtent> {
    const index = this.#groupAt(offset);
    if (this.#held(index) === undefined) await this.#load(index);
    const { storage, hostOffset, ...run } = this.#run(this.#held(index)!, offset, length);
    return storage === undefined ? { kind: 'zero', ...run } : { kind: 'data', ...run, storage, hostOffset };
  }

  async #readRest(offset: number, target: Uint8Array, done: number, waiting: Promise<void>[]): Promise<void> {
    try {
      await this.#load(this.#groupAt(offset + done));
      await this.read(offset + done, target.subarray(done));
    } finally {
      // Nobody may write into a buffer that the caller has back.
      await Promise.allSettled(waiting);
    }
    await allOf(waiting);
  }

  /** Grains of one link that lie together, or zeros, from `offset` on. */
  #run(
    group: Group,
    offset: number,
    length: number,
  ): Pick<ResolvedExtent, 'length' | 'depth' | 'allocated'> & {
    readonly storage: Storage | undefined;
    readonly hostOffset: number;
  } {
    const { owners, sectors } = group;
    const grainBytes = this.#grainBytes;
    const grain = Math.floor(offset / grainBytes);
    const first = grain % GRAIN_TABLE_ENTRIES;
    const inside = offset - grain * grainBytes;
    const [owner, sector] = [owners[first]!, sectors[first]!];
    const step = sector > ZEROED_GRAIN ? grainBytes / SECTOR : 0;
    const most = Math.min(GRAIN_TABLE_ENTRIES - first, Math.ceil((inside + length) / grainBytes));
    let count = 1;
    while (
      count < most &&
      owners[first + count] === owner &&
      sectors[first + count] === sector + count * step
    ) {
      count++;
    }
    return {
      length: Math.min(length, count * grainBytes - inside),
      depth: (owner === 0 ? this.#links.length : owner) - 1,
      allocated: owner !== 0,
      storage: sector > ZEROED_GRAIN ? this.#links[owner - 1]!.storage : undefined,
      hostOffset: sector * SECTOR + inside,
    };
  }

  get #grainBytes(): number {
    return this.#links[0]!.header.grainBytes;
  }

  #groupAt(offset: number): number {
    return Math.floor(offset / (this.#grainBytes * GRAIN_TABLE_ENTRIES));
  }

  #held(index: number): Group | undefined {
    const group = this.#slots[index % this.#slots.length];
    return group?.index === index ? group : undefined;
  }

  /** Forgets everything, and looks at the chain as it is now. */
  #begin(): void {
    this.#epoch = this.#pool.epoch;
    this.#links = [];
    this.#slots = [];
    this.#loading.clear();
    const below = this.#image.chain().slice(1);
    const bottom = below.at(-1);
    if (bottom === undefined || bottom.link !== undefined || below.length > MAX_LINKS) return;
    const extents = below.map(({ own }) => own.onlySparse);
    const [top] = extents;
    if (top === undefined) return;
    const isAlike = (extent: SparseExtent | undefined): extent is SparseExtent =>
      extent?.size === top.size && extent.header.grainBytes === top.header.grainBytes;
    if (!extents.every(isAlike)) return;
    this.#links = extents;
    const groups = top.tables.directory.length;
    this.#slots = new Array<Group | undefined>(Math.min(this.#slotLimit, groups)).fill(undefined);
  }

  /** Merges the group and its neighbours; who asks for one that is being merged waits with the others. */
  #load(index: number): Promise<void> {
    const first = index - (index % TOGETHER);
    const under = this.#loading.get(first);
    if (under !== undefined) return under;
    const loading = this.#merge(first).finally(() => {
      if (this.#loading.get(first) === loading) this.#loading.delete(first);
    });
    this.#loading.set(first, loading);
    return loading;
  }

  async #merge(first: number): Promise<void> {
    const slots = this.#slots;
    const links = this.#links;
    const groupCount = links[0]!.tables.directory.length;
    const count = Math.min(TOGETHER, groupCount - first, slots.length);
    const groups = Array.from({ length: count }, (_, i): Group => {
      const owners = new Uint16Array(GRAIN_TABLE_ENTRIES);
      return { index: first + i, owners, sectors: new Uint32Array(GRAIN_TABLE_ENTRIES) };
    });
    let open = count * GRAIN_TABLE_ENTRIES;
    const table = new Uint32Array(GRAIN_TABLE_ENTRIES);
    for (let owner = 1; owner <= links.length && open > 0; owner++) {
      const link = links[owner - 1]!;
      if (!touches(await link.filledTables(), first, first + count)) continue;
      const { storage, tables } = link;
      const pieces = new TablePieces(storage, tables.directory, count * GRAIN_TABLE_BYTES);
      for (const { index, owners, sectors } of groups) {
        if (tables.directory[index] === 0) continue;
        const bytes = await pieces.at(index);
        if (bytes === undefined || !tables.decode(index, bytes, table)) continue;
        for (let grain = 0; grain < GRAIN_TABLE_ENTRIES; grain++) {
          if (table[grain] === 0 || owners[grain] !== 0) continue;
          owners[grain] = owner;
          sectors[grain] = table[grain]!;
          open--;
        }
      }
    }
    for (const group of groups) slots[group.index % slots.length] = group;
  }
}

/** Waits for all, then throws the first failure. */
async function allOf(waiting: readonly Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(waiting);
  const failed = results.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}

function touches(runs: readonly number[], first: number, end: number): boolean {
  for (let i = 0; i < runs.length; i += 2) if (runs[i]! < end && runs[i + 1]! > first) return true;
  return false;
}
