import type {
  Awaitable,
  BackingReference,
  BlockDriver,
  Capabilities,
  CheckReport,
  DriverImage,
  Extent,
  ImageInfo,
  OpenContext,
  Placement,
  ReadSource,
  Storage,
  StorageFolder,
} from '../src/index.ts';

/*
 * The smallest format with everything that the data path tells apart. A file is `PAGE`, then what it names as
 * its backing; the mapping lives in memory only. Pages are put behind each other from DATA_START on.
 */

export const PAGE_BYTES = 4096;
const DATA_START = PAGE_BYTES;
const MAGIC = 'PAGE';

export const capabilities: Capabilities = {
  write: true,
  snapshots: 'none',
  maxSnapshots: 0,
  renameSnapshots: false,
  snapshotParents: false,
  diff: false,
  backing: true,
  backingSnapshot: false,
  releaseBacking: false,
  changeBacking: false,
  empty: false,
  backingContentId: false,
  resize: 'both',
  compress: 'none',
  compact: 'none',
  measure: false,
  amend: [],
  repair: [],
  concurrency: 'perRange',
  afterPowerLoss: 'clean',
  maxSize: 2 ** 40,
  sizeMultiple: 1,
};

export interface PagedOptions {
  readonly size: number;
  readonly backing?: ReadSource;
  /** Host bytes are known to be zeros before they are first written. */
  readonly fresh?: boolean;
  /** Every answer of `map` comes later. */
  readonly slowMap?: boolean;
}

export class PagedImage implements DriverImage {
  readonly unitBytes = PAGE_BYTES;
  readonly storage: Storage;
  /** What the data path asked for, in order: `reserve 0+10`, `commit 0`, `abort 0`, `zero 4096+4096`. */
  readonly log: string[] = [];
  /** Page number → host offset, or the word `zero`. */
  readonly pages: Map<number, number | 'zero'> = new Map();
  /** Pages that somebody else refers to as well. */
  readonly shared: Set<number> = new Set();
  /** Thrown by the next calls of `map`. */
  mapError: Error | undefined;
  closed = false;
  readonly #options: PagedOptions;
  #size: number;
  #end = DATA_START;

  constructor(storage: Storage, options: PagedOptions) {
    this.storage = storage;
    this.#options = options;
    this.#size = options.size;
  }

  get size(): number {
    return this.#size;
  }

  map(offset: number, length: number): Awaitable<Extent> {
    const extent = (): Extent => {
      if (this.mapError !== undefined) throw this.mapError;
      return this.#extent(offset, length);
    };
    return this.#options.slowMap === true ? Promise.resolve().then(extent) : extent();
  }

  #extent(offset: number, asked: number): Extent {
    const page = Math.floor(offset / PAGE_BYTES);
    const length = Math.min(asked, (page + 1) * PAGE_BYTES - offset);
    const at = this.pages.get(page);
    if (at === 'zero') return { kind: 'zero', length, allocated: true };
    if (at !== undefined) {
      const hostOffset = at + (offset % PAGE_BYTES);
      return { kind: 'data', length, storage: this.storage, hostOffset, owned: !this.shared.has(page) };
    }
    const { backing } = this.#options;
    return backing === undefined
      ? { kind: 'zero', length, allocated: false }
      : { kind: 'backing', length, source: backing, offset };
  }

  reserve(offset: number, asked: number): Placement {
    const head = offset % PAGE_BYTES;
    const length = Math.min(asked, PAGE_BYTES - head);
    this.log.push(`reserve ${offset}+${length}`);
    const hostOffset = this.#end + head;
    this.#end += PAGE_BYTES;
    const tail = PAGE_BYTES - head - length;
    const fresh = this.#options.fresh ?? false;
    return { storage: this.storage, guestOffset: offset, length, hostOffset, head, tail, fresh };
  }

  commit(placement: Placement): void {
    this.log.push(`commit ${placement.guestOffset}`);
    const page = Math.floor(placement.guestOffset / PAGE_BYTES);
    this.pages.set(page, placement.hostOffset - placement.head);
    this.shared.delete(page);
  }

  abort(placement: Placement): void {
    this.log.push(`abort ${placement.guestOffset}`);
  }

  unmap(offset: number, length: number, mode: 'discard' | 'zero'): void {
    this.log.push(`${mode} ${offset}+${length}`);
    for (let at = offset; at < offset + length; at += PAGE_BYTES) this.pages.set(at / PAGE_BYTES, 'zero');
  }

  flush(): Awaitable<void> {
    this.log.push('flush');
    return this.storage.flush();
  }

  async check(): Promise<CheckReport> {
    this.log.push('check');
    const sum = { corruptions: 0, leaks: 0, repaired: 0, findings: [] };
    return { ...sum, allocatedBytes: this.pages.size * PAGE_BYTES, imageEndBytes: this.#end };
  }

  async resize(size: number): Promise<void> {
    this.log.push(`resize ${size}`);
    this.#size = size;
  }

  info(): ImageInfo {
    const { unitBytes, size, storage } = this;
    return { format: 'paged', size, unitBytes, files: [storage.name], storageBytes: this.#end, details: {} };
  }

  stats(): { residentMetadataBytes: number } {
    return { residentMetadataBytes: this.pages.size };
  }

  async close(): Promise<void> {
    this.log.push('close');
    this.closed = true;
    await this.storage.close();
  }
}

/** Writes the file of a paged image that names `backing`; an empty name is none. */
export async function writePaged(folder: StorageFolder, file: string, backing = ''): Promise<void> {
  const storage = await folder.create(file);
  await storage.write(0, new TextEncoder().encode(MAGIC + backing));
  await storage.close();
}

async function backingName(storage: Storage): Promise<string> {
  const bytes = new Uint8Array(Math.min(DATA_START, storage.size()));
  await storage.read(0, bytes, 'header');
  return new TextDecoder().decode(bytes.subarray(MAGIC.length));
}

export const paged: BlockDriver = {
  name: 'paged',
  capabilities,
  options: {
    fail: { type: 'boolean', default: false, help: 'fail in the middle of create' },
  },
  openOptions: { slowMap: { type: 'boolean', default: false, help: 'answer later' } },

  probe(head: Uint8Array): number {
    return new TextDecoder().decode(head.subarray(0, MAGIC.length)) === MAGIC ? 100 : 0;
  },

  async create(folder, file, { backing, options }): Promise<void> {
    const storage = await folder.open(file, { readOnly: false, lock: 'exclusive' });
    await storage.write(0, new TextEncoder().encode(MAGIC + (backing?.file ?? '')));
    await storage.close();
    if (options.fail === true) throw new Error('the disk fell off the table');
  },

  async open(folder: StorageFolder, file: string, context: OpenContext): Promise<DriverImage> {
    const storage = await folder.open(file, { readOnly: context.readOnly, lock: context.lock });
    try {
      const name = await backingName(storage);
      const reference: BackingReference = { file: name };
      const slowMap = context.options.slowMap === true;
      if (name === '') return new PagedImage(storage, { size: 1024 * 1024, slowMap });
      const backing = await context.openBacking(reference, 'backing name');
      return new ChainedImage(storage, { size: backing.size, backing, slowMap }, () => backing.close());
    } catch (error) {
      await storage.close();
      throw error;
    }
  },
};

class ChainedImage extends PagedImage {
  readonly #closeBacking: () => Promise<void>;

  constructor(storage: Storage, options: PagedOptions, closeBacking: () => Promise<void>) {
    super(storage, options);
    this.#closeBacking = closeBacking;
  }

  override async close(): Promise<void> {
    await super.close();
    await this.#closeBacking();
  }
}
