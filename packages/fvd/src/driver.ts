import {
  type Backing,
  type BlockDriver,
  type Capabilities,
  CowlabError,
  type CreateRequest,
  corrupt,
  type DriverImage,
  type Measurement,
  type MeasureRequest,
  type NewImage,
  type OpenContext,
  type OptionTable,
  type Storage,
  type StorageFolder,
  unsupported,
  viewOf,
} from '@cowlab/core';
import { scanCounts } from './catalog.ts';
import { MIN_PLACES } from './gather.ts';
import { FvdImage } from './image.ts';
import { Journal } from './journal.ts';
import { LiveCounts } from './live-counts.ts';
import {
  assertBaseFits,
  decodeSuperblock,
  encodeRoot,
  encodeSuperblock,
  geometryOf,
  isGeometry,
  logChunkOf,
  MAGIC,
  MAX_CHUNKS,
  MAX_JOURNAL_BYTES,
  MAX_SNAPSHOTS,
  NO_REGION,
  rootBytes,
  SLOT_BYTES,
  SUPERBLOCKS_BYTES,
  type Superblock,
  baseOf,
  VERSION,
  ZERO,
} from './layout.ts';
import { measureImage } from './measure.ts';
import { Publisher } from './publisher.ts';
import { Space } from './space.ts';
import { emptyState, readState, type State } from './tree.ts';
import { isVersion1 } from './v1/layout.ts';
import { openVersion1 } from './v1/open.ts';

const capabilities: Capabilities = {
  write: true,
  snapshots: 'internal',
  maxSnapshots: MAX_SNAPSHOTS,
  renameSnapshots: true,
  snapshotParents: true,
  diff: true,
  backing: true,
  backingSnapshot: true,
  releaseBacking: true,
  changeBacking: true,
  empty: true,
  backingContentId: false,
  resize: 'both',
  compress: 'none',
  compact: 'move',
  measure: true,
  amend: [],
  repair: ['leaks', 'all'],
  concurrency: 'perRange',
  afterPowerLoss: 'clean',
  maxSize: 16 * 2 ** 40,
  sizeMultiple: 512,
};

const options: OptionTable = {
  chunk_size: {
    type: 'size',
    default: 1024 * 1024,
    help: 'unit of the lookup table: a power of two from 64K to 4M',
  },
  block_size: {
    type: 'size',
    default: 4096,
    help: 'unit of copy-on-write: a power of two from 512 to 64K; a chunk has 8 to 4,096 blocks',
  },
  journal_size: {
    type: 'size',
    default: 1024 * 1024,
    help: 'bytes of the journal, rounded up to whole chunks; up to 64M',
  },
  preallocation: {
    type: 'choice',
    choices: ['off', 'metadata'],
    default: 'off',
    help: 'metadata: every chunk is mapped from the start, its data are holes',
  },
};

const openOptions: OptionTable = {
  max_places: {
    type: 'number',
    default: 64,
    help: 'host places that a chunk may be spread over before a first write gathers some of them; at least 4',
  },
  journal: {
    type: 'boolean',
    default: true,
    help: 'off, to measure what the journal is worth: every flush writes the changed pages of the table instead',
  },
  copy_chunks: {
    type: 'boolean',
    default: false,
    help: 'on, to measure what copy-on-write by block is worth: a first write after a snapshot copies its whole chunk',
  },
  live_refcounts: {
    type: 'boolean',
    default: false,
    help: 'on, to measure what static refcounts are worth: counts of all host chunks are kept in memory, and what changes is written before each flush, to chunks that are free for everyone else',
  },
  min_delta_page: {
    type: 'size',
    default: 1024,
    help: 'pages of the table shorter than this are always written whole, longer ones as deltas where that is less',
  },
};

/** Refuses create options that do not fit together. */
function assertOptions({ size, options: values }: NewImage): void {
  const ensure = (right: boolean, field: string, problem: string): void => {
    if (!right) throw new CowlabError('ERR_INVALID_OPTION', `option ${field}: ${problem}`, { field });
  };
  const chunkBytes = values.chunk_size as number;
  const blockBytes = values.block_size as number;
  const geometry = `chunk_size ${chunkBytes} and block_size ${blockBytes}`;
  ensure(
    isGeometry(chunkBytes, blockBytes),
    'chunk_size',
    `${geometry} are not powers of two in range with 8 to 4,096 blocks a chunk`,
  );
  const maxSize = chunkBytes * MAX_CHUNKS;
  ensure(size <= maxSize, 'chunk_size', `with chunks of ${chunkBytes} a disk has at most ${maxSize} bytes`);
  const journalBytes = values.journal_size as number;
  const fits = journalBytes > 0 && journalBytes <= MAX_JOURNAL_BYTES;
  ensure(fits, 'journal_size', `not from 1 to ${MAX_JOURNAL_BYTES} bytes`);
}

/** The superblock of an image in which nothing is mapped, and its root. */
function firstState({ size, options: values, backing }: NewImage): [Superblock, State] {
  const chunkBytes = values.chunk_size as number;
  const geometry = geometryOf(chunkBytes, values.block_size as number);
  const journalChunks = Math.ceil((values.journal_size as number) / chunkBytes);
  const bytes = rootBytes(geometry, size);
  const inFirstChunk = SUPERBLOCKS_BYTES + bytes <= chunkBytes;
  const rootChunks = inFirstChunk ? 0 : Math.ceil(bytes / chunkBytes);
  const rootOffset = inFirstChunk ? SUPERBLOCKS_BYTES : (1 + journalChunks) * chunkBytes;
  const superblock = {
    generation: 1,
    chunkBytes,
    blockBytes: geometry.blockBytes,
    size,
    journal: { offset: chunkBytes, bytes: journalChunks * chunkBytes },
    root: { offset: rootOffset, bytes },
    catalog: NO_REGION,
    logOffset: rootOffset + bytes,
    packNext: 0,
    tailFrom: 0,
    hostChunks: 1 + journalChunks + rootChunks,
    base: backing?.file ?? '',
    baseFormat: backing?.format ?? '',
    baseSnapshot: backing?.snapshot ?? '',
    hasDeltas: false,
  };
  return [superblock, emptyState(geometry, size, superblock.root)];
}

/** Maps every chunk to a host chunk of its own, in order. Nothing is written there: holes read as zeros. */
async function mapEverything(storage: Storage, superblock: Superblock, state: State): Promise<void> {
  const { geometry } = state.table;
  const space = new Space(geometry, superblock.hostChunks);
  space.fix({ offset: 0, bytes: superblock.chunkBytes });
  space.fix(superblock.journal);
  const journal = new Journal(storage, superblock.journal, superblock.generation);
  const publisher = new Publisher({ storage, space, superblock, journal, state, minDeltaPage: 0 });
  space.addRegion(state.root);
  for (let chunk = 0; chunk < state.table.chunks; chunk++) {
    const host = space.findFree();
    space.addWhole(host);
    state.table.load(chunk, 1, host);
    publisher.touch(chunk);
  }
  await publisher.publish(state, {});
}

async function newestSuperblock(storage: Storage): Promise<Superblock> {
  const file = storage.name;
  if (storage.size() < SUPERBLOCKS_BYTES) {
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
  const newest = second !== undefined && second.generation > first.generation ? second : first;
  if (newest.hostChunks * newest.chunkBytes > storage.size()) {
    const problem = `${newest.hostChunks} chunks are more than the file's ${storage.size()} bytes`;
    throw corrupt(file, 'superblock.hostChunks', problem, { value: newest.hostChunks });
  }
  return newest;
}

/** Applies the journal to the table. Gives back the chunks that changed, and the last host chunk that was named. */
async function replayInto(
  state: State,
  journal: Journal,
  storage: Storage,
): Promise<{ changed: Set<number>; lastHost: number }> {
  const { table } = state;
  const { blocksPerChunk, blockBytes } = table.geometry;
  const blocks = table.chunks * blocksPerChunk;
  const hostBlocks = Math.ceil(storage.size() / blockBytes);
  const changed = new Set<number>();
  let lastHost = 0;
  await journal.replay(({ guest, count, host }) => {
    if (count === 0 || guest + count > blocks) {
      throw corrupt(storage.name, 'journal.guest', `${guest} is past the end of the disk`, { value: guest });
    }
    if (host > ZERO && (host < blocksPerChunk || host + count > hostBlocks)) {
      throw corrupt(storage.name, 'journal.host', `${host} is outside the file`, { value: host });
    }
    if (host > ZERO) lastHost = Math.max(lastHost, Math.floor((host + count - 1) / blocksPerChunk));
    table.apply({ guest, count, host }, (chunk) => changed.add(chunk));
  });
  return { changed, lastHost };
}

async function openImage(storage: Storage, context: OpenContext): Promise<DriverImage> {
  const head = new Uint8Array(8);
  await storage.read(0, head, 'header');
  return isVersion1(head) ? openVersion1(storage, context) : openVersion2(storage, context);
}

function maxPlacesOf({ options: { max_places: value } }: OpenContext): number {
  if ((value as number) >= MIN_PLACES) return value as number;
  const problem = `${value} is fewer than ${MIN_PLACES}`;
  throw new CowlabError('ERR_INVALID_OPTION', `option max_places: ${problem}`, { field: 'max_places' });
}

async function openVersion2(storage: Storage, context: OpenContext): Promise<DriverImage> {
  const maxPlaces = maxPlacesOf(context);
  const superblock = await newestSuperblock(storage);
  const { hostChunks, chunkBytes, blockBytes, size, root, catalog: region } = superblock;
  const geometry = geometryOf(chunkBytes, blockBytes);
  const state = await readState(storage, root, size, geometry, hostChunks);
  const journal = new Journal(storage, superblock.journal, superblock.generation);
  const { changed, lastHost } = await replayInto(state, journal, storage);
  // The newest packed chunk is not in the superblock after a crash; the older one may serve another purpose by now.
  const packNext = journal.isEmpty ? superblock.packNext : 0;
  const space = new Space(geometry, Math.max(hostChunks, lastHost + 1), packNext, superblock.tailFrom);
  space.fix({ offset: 0, bytes: chunkBytes });
  space.fix(superblock.journal);
  space.fix(region);
  space.logChunk = logChunkOf(superblock);
  space.adoptFront(space.survey(state, storage.name));
  const place = { storage, region, geometry, hostChunks };
  const { readOnly, options: values } = context;
  const counted = values.live_refcounts === true && !readOnly;
  const liveCounts = counted ? new LiveCounts(storage, space, chunkBytes) : undefined;
  await scanCounts(place, (first, counts) => {
    space.setStaticWhere(first, counts);
    liveCounts?.load(first, counts);
  });
  liveCounts?.begin();
  const base = await openBase(superblock, context);
  try {
    const parts = {
      storage,
      state,
      space,
      superblock,
      journal,
      base,
      readOnly,
      maxPlaces,
      minDeltaPage: values.min_delta_page as number,
      journals: values.journal !== false,
      copiesChunks: values.copy_chunks === true,
      liveCounts,
    };
    const image = new FvdImage(parts);
    // The pages on disk do not have what the journal says of these.
    if (readOnly) for (const chunk of changed) image.publisher.touch(chunk);
    else if (!journal.isEmpty) await image.recover(changed);
    return image;
  } catch (error) {
    await base?.close();
    throw error;
  }
}

async function openBase(superblock: Superblock, context: OpenContext): Promise<Backing | undefined> {
  const reference = baseOf(superblock);
  return reference && context.openBacking(reference, 'superblock.base');
}

/** The FVD format: version 2, and version 1 to be read. See FORMAT.md. */
export const fvd: BlockDriver = {
  name: 'fvd',
  capabilities,
  options,
  openOptions,

  probe(head: Uint8Array): number {
    return head.length >= 8 && viewOf(head).getUint32(0, true) === MAGIC ? 100 : 0;
  },

  async create(folder: StorageFolder, file: string, request: CreateRequest): Promise<void> {
    assertOptions(request);
    if (request.backing !== undefined) assertBaseFits(file, request.backing);
    const [superblock, state] = firstState(request);
    const storage = await folder.open(file, { readOnly: false, lock: 'exclusive' });
    try {
      await storage.truncate(superblock.hostChunks * superblock.chunkBytes);
      const { offset } = superblock.root;
      await storage.write(offset, encodeRoot(superblock.size, state.pages), 'mapping');
      // Both slots: a file whose first bytes say nothing would not be recognised.
      for (const slot of [0, 1])
        await storage.write(slot * SLOT_BYTES, encodeSuperblock(superblock), 'header');
      await storage.flush();
      if (request.options.preallocation === 'metadata') {
        await mapEverything(storage, superblock, state);
      }
    } finally {
      await storage.close();
    }
  },

  async measure(request: MeasureRequest): Promise<Measurement> {
    assertOptions(request);
    const [{ hostChunks, logOffset }, { table }] = firstState(request);
    return measureImage({ geometry: table.geometry, hostChunks, logOffset }, request);
  },

  async open(folder: StorageFolder, file: string, context: OpenContext): Promise<DriverImage> {
    const storage = await folder.open(file, { readOnly: context.readOnly, lock: context.lock });
    try {
      return await openImage(storage, context);
    } catch (error) {
      await storage.close();
      throw error;
    }
  },
};
