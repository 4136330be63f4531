import type { Awaitable } from './awaitable.ts';
import type {
  BlockDriver,
  Capabilities,
  CheckReport,
  CreateRequest,
  DataExtent,
  DriverImage,
  ImageInfo,
  ImageStats,
  Measurement,
  MeasureRequest,
  OpenContext,
  Placement,
} from './driver.ts';
import { CowlabError, unsupported } from './errors.ts';
import { preallocate } from './preallocate.ts';
import { allocatedBytes, type Storage, type StorageFolder } from './storage.ts';

/* The format without a format: guest bytes are host bytes. What every other driver is measured against. */

const capabilities: Capabilities = {
  write: true,
  snapshots: 'none',
  maxSnapshots: 0,
  renameSnapshots: false,
  snapshotParents: false,
  diff: false,
  backing: false,
  backingSnapshot: false,
  releaseBacking: false,
  changeBacking: false,
  empty: false,
  backingContentId: false,
  resize: 'both',
  compress: 'none',
  compact: 'none',
  measure: true,
  amend: [],
  repair: [],
  concurrency: 'perRange',
  afterPowerLoss: 'clean',
  maxSize: Number.MAX_SAFE_INTEGER,
  sizeMultiple: 1,
};

export class RawImage implements DriverImage {
  readonly unitBytes = 512;
  readonly #storage: Storage;
  #size: number;

  constructor(storage: Storage) {
    this.#storage = storage;
    this.#size = storage.size();
  }

  get size(): number {
    return this.#size;
  }

  map(offset: number, length: number): DataExtent {
    return { kind: 'data', length, storage: this.#storage, hostOffset: offset, owned: true };
  }

  reserve(): Placement {
    throw new TypeError('raw owns every byte: nothing is ever reserved');
  }

  commit(): void {
    throw new TypeError('raw owns every byte: nothing is ever committed');
  }

  abort(): void {
    throw new TypeError('raw owns every byte: nothing is ever aborted');
  }

  unmap(offset: number, length: number): Awaitable<void> {
    return this.#storage.zero(offset, length);
  }

  flush(): Awaitable<void> {
    return this.#storage.flush();
  }

  async check(): Promise<CheckReport> {
    return {
      corruptions: 0,
      leaks: 0,
      repaired: 0,
      findings: [],
      allocatedBytes: this.#size,
      imageEndBytes: this.#size,
    };
  }

  async resize(size: number): Promise<void> {
    if (this.#storage.fixedSize === true && size !== this.#size) {
      const { name } = this.#storage;
      throw unsupported(name, 'size', `a device keeps its ${this.#size} bytes`, { value: size });
    }
    await this.#storage.truncate(size);
    this.#size = size;
    await this.#storage.flush();
  }

  async info(): Promise<ImageInfo> {
    return {
      format: 'raw',
      size: this.#size,
      unitBytes: this.unitBytes,
      files: [this.#storage.name],
      storageBytes: await allocatedBytes(this.#storage),
      details: {},
    };
  }

  stats(): ImageStats {
    return { residentMetadataBytes: 0 };
  }

  async close(): Promise<void> {
    try {
      if (!this.#storage.readOnly) await this.#storage.flush();
    } finally {
      await this.#storage.close();
    }
  }
}

export const raw: BlockDriver = {
  name: 'raw',
  capabilities,
  options: {
    preallocation: {
      type: 'choice',
      choices: ['off', 'falloc', 'full'],
      default: 'off',
      help: 'falloc reserves the space of the whole disk, full writes zeros to all of it',
    },
  },
  openOptions: {},

  probe(): number {
    return 1;
  },

  async create(folder: StorageFolder, file: string, request: CreateRequest): Promise<void> {
    if (request.backing !== undefined) {
      throw new CowlabError('ERR_UNSUPPORTED', `${file}: backing file: raw has none`, {
        file,
        field: 'backing file',
      });
    }
    const storage = await folder.open(file, { readOnly: false, lock: 'exclusive' });
    try {
      const { preallocation: how } = request.options;
      if (how === 'falloc' || how === 'full') await preallocate(storage, how, 0, request.size);
      else await storage.truncate(request.size);
      await storage.flush();
    } finally {
      await storage.close();
    }
  },

  async measure({ size }: MeasureRequest): Promise<Measurement> {
    return { requiredBytes: size, fullyAllocatedBytes: size };
  },

  async open(folder: StorageFolder, file: string, context: OpenContext): Promise<DriverImage> {
    return new RawImage(await folder.open(file, { readOnly: context.readOnly, lock: context.lock }));
  },
};
