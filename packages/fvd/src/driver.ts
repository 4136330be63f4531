import {
  type Backing,
  type BlockDriver,
  type Capabilities,
  CowlabError,
  type CreateRequest,
  corrupt,
  type DriverImage,
  type OpenContext,
  type OptionTable,
  type Storage,
  type StorageFolder,
  unsupported,
  viewOf,
} from '@cowlab/core';
import { FvdImage } from './image.ts';
import { Journal } from './journal.ts';
import {
  decodeSuperblock,
  encodeSuperblock,
  geometryOf,
  isGeometry,
  LOG_START,
  MAGIC,
  MAX_SNAPSHOTS,
  NO_REGION,
  SLOT_BYTES,
  type Superblock,
  VERSION,
  ZERO,
} from './layout.ts';
import { Publisher } from './publisher.ts';
import { readCatalog } from './snapshots.ts';
import { Space } from './space.ts';
import { continuation } from './table.ts';
import { emptyState, readState, type State } from './tree.ts';

const capabilities: Capabilities = {
  write: true,
  snapshots: 'internal',
  maxSnapshots: MAX_SNAPSHOTS,
  backing: true,
  resize: 'both',
  repair: ['leaks', 'all'],
  concurrency: 'perRange',
  afterPowerLoss: 'clean',
  maxSize: 16 * 2 ** 40,
  sizeMultiple: 512,
};

const options: OptionTable = {
  chunk_size: { type: 'size', default: 1024 * 1024, help: 'unit of the lookup table, 64 KiB to 4 MiB' },
  block_size: { type: 'size', default: 4096, help: 'unit of copy-on-write, 512 bytes to 64 KiB' },
  journal_size: {
    type: 'size',
    default: 1024 * 1024,
    help: 'bytes of the journal, rounded up to whole chunks',
  },
  preallocation: {
    type: 'choice',
    choices: ['off', 'metadata'],
    default: 'off',
    help: 'metadata: every chunk is mapped from the start, its data are holes',
  },
};

const MAX_JOURNAL_BYTES = 64 * 1024 * 1024;

function firstSuperblock(request: CreateRequest): Superblock {
  const chunkBytes = request.options.chunk_size as number;
  const blockBytes = request.options.block_size as number;
  const journalBytes = Math.ceil((request.options.journal_size as number) / chunkBytes) * chunkBytes;
  if (!isGeometry(chunkBytes, blockBytes)) {
    throw new CowlabError(
      'ERR_INVALID_OPTION',
      `options chunk_size ${chunkBytes}, block_size ${blockBytes}: not powers of two in range, 8 to 4,096 blocks a chunk`,
      { field: 'chunk_size' },
    );
  }
  if (journalBytes === 0 || journalBytes > MAX_JOURNAL_BYTES) {
    throw new CowlabError(
      'ERR_INVALID_OPTION',
      `option journal_size: not from 1 to ${MAX_JOURNAL_BYTES} bytes`,
      {
        field: 'journal_size',
      },
    );
  }
  return {
    generation: 1,
    chunkBytes,
    blockBytes,
    size: request.size,
    journal: { offset: chunkBytes, bytes: journalBytes },
    root: NO_REGION,
    catalog: NO_REGION,
    logOffset: LOG_START,
    packNext: 0,
    tailFrom: 0,
    hostChunks: 1 + journalBytes / chunkBytes,
    base: request.backing?.file ?? '',
    baseFormat: request.backing?.format ?? '',
  };
}

/** Maps every chunk to a host chunk of its own, in order. Nothing is written there: holes read as zeros. */
async function mapEverything(storage: Storage, superblock: Superblock): Promise<void> {
  const geometry = geometryOf(superblock.chunkBytes, superblock.blockBytes);
  const state = emptyState(geometry, superblock.size);
  const space = new Space(geometry, superblock.hostChunks);
  space.fix({ offset: 0, bytes: superblock.chunkBytes });
  space.fix(superblock.journal);
  const journal = new Journal(storage, superblock.journal, superblock.generation);
  const publisher = new Publisher({ storage, space, superblock, journal, pages: state.pages });
  for (let chunk = 0; chunk < state.table.chunks; chunk++) {
    const host = space.findFree();
    space.addWhole(host);
    state.table.load(chunk, host);
    publisher.touch(chunk);
  }
  await publisher.publish(state, {});
}

async function newestSuperblock(storage: Storage): Promise<Superblock> {
  const file = storage.name;
  if (storage.size() < 2 * SLOT_BYTES) {
    throw corrupt(file, 'superblock', `the file has ${storage.size()} bytes, fewer than its superblock`);
  }
  const slots: Superblock[] = [];
  for (const slot of [0, 1]) {
    const bytes = new Uint8Array(SLOT_BYTES);
    await storage.read(slot * SLOT_BYTES, bytes, 'header');
    const view = viewOf(bytes);
    const version = view.getUint32(4, true);
    // A torn write leaves each sector old or new, and both begin like this: anything else is no crash but damage.
    if (view.getUint32(0, true) !== MAGIC)
      throw corrupt(file, `superblock[${slot}].magic`, 'is not that of FVD');
    if (version !== VERSION) {
      throw unsupported(file, 'superblock.version', `version ${version} is not ${VERSION}`, {
        value: version,
      });
    }
    const decoded = decodeSuperblock(bytes, file);
    if (decoded !== undefined) slots.push(decoded);
  }
  const [first, second] = slots;
  if (first === undefined) throw corrupt(file, 'superblock', 'neither slot is valid');
  return second !== undefined && second.generation > first.generation ? second : first;
}

/** Applies one journaled run to the table. */
function replayInto(
  state: State,
  file: string,
): (run: { guest: number; count: number; host: number }) => void {
  const { blocksPerChunk } = state.table.geometry;
  const blocks = state.table.chunks * blocksPerChunk;
  return ({ guest, count, host }) => {
    if (count === 0 || guest + count > blocks)
      throw corrupt(file, 'journal.guest', `${guest} is past the end of the disk`);
    if (host > ZERO && (host < blocksPerChunk || host + count > 2 ** 31 * blocksPerChunk)) {
      throw corrupt(file, 'journal.host', `${host} is no data block`);
    }
    for (let done = 0; done < count; ) {
      const chunk = Math.floor((guest + done) / blocksPerChunk);
      const block = guest + done - chunk * blocksPerChunk;
      const part = Math.min(count - done, blocksPerChunk - block);
      state.table.set(chunk, block, part, continuation(host, done), () => undefined);
      done += part;
    }
  };
}

async function openImage(storage: Storage, context: OpenContext): Promise<DriverImage> {
  const superblock = await newestSuperblock(storage);
  const file = storage.name;
  const geometry = geometryOf(superblock.chunkBytes, superblock.blockBytes);
  const state = await readState(storage, superblock.root, superblock.size, geometry, superblock.hostChunks);
  const journal = new Journal(storage, superblock.journal, superblock.generation);
  let last = superblock.hostChunks - 1;
  const replay = replayInto(state, file);
  await journal.replay((run) => {
    replay(run);
    if (run.host > ZERO)
      last = Math.max(last, Math.floor((run.host + run.count - 1) / geometry.blocksPerChunk));
  });
  // The newest packed chunk is not in the superblock after a crash; the older one may serve another purpose by now.
  const packNext = journal.isEmpty ? superblock.packNext : 0;
  const space = new Space(geometry, last + 1, packNext, superblock.tailFrom);
  space.addTree(state);
  space.fix({ offset: 0, bytes: superblock.chunkBytes });
  space.fix(superblock.journal);
  space.fix(superblock.catalog);
  space.addTable(state.table, file);
  const { counts } = await readCatalog(storage, superblock.catalog, geometry, superblock.hostChunks);
  counts.forEach((count, chunk) => {
    if (count > 0) space.setStatic(chunk);
  });
  const base = await openBase(superblock, context);
  const image = new FvdImage({
    storage,
    state,
    space,
    superblock,
    journal,
    base,
    readOnly: context.readOnly,
  });
  if (!context.readOnly && !journal.isEmpty) await image.recover();
  return image;
}

async function openBase(superblock: Superblock, context: OpenContext): Promise<Backing | undefined> {
  if (superblock.base === '') return undefined;
  const format = superblock.baseFormat;
  return context.openBacking({ file: superblock.base, ...(format !== '' && { format }) }, 'superblock.base');
}

/** The FVD format, version 2: see FORMAT.md. */
export const fvd: BlockDriver = {
  name: 'fvd',
  capabilities,
  options,
  openOptions: {},

  probe(head: Uint8Array): number {
    return head.length >= 8 && viewOf(head).getUint32(0, true) === MAGIC ? 100 : 0;
  },

  async create(folder: StorageFolder, file: string, request: CreateRequest): Promise<void> {
    const superblock = firstSuperblock(request);
    const storage = await folder.open(file, { readOnly: false });
    try {
      await storage.truncate(superblock.hostChunks * superblock.chunkBytes);
      // Both slots: a file whose first bytes say nothing would not be recognised.
      for (const slot of [0, 1])
        await storage.write(slot * SLOT_BYTES, encodeSuperblock(superblock), 'header');
      await storage.flush();
      if (request.options.preallocation === 'metadata') await mapEverything(storage, superblock);
    } finally {
      await storage.close();
    }
  },

  async open(folder: StorageFolder, file: string, context: OpenContext): Promise<DriverImage> {
    const storage = await folder.open(file, { readOnly: context.readOnly });
    try {
      return await openImage(storage, context);
    } catch (error) {
      await storage.close();
      throw error;
    }
  },
};
