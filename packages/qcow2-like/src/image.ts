import {
  allocatedBytes,
  type Awaitable,
  andThen,
  type Backing,
  type BackingReference,
  type CheckOptions,
  type CheckReport,
  CowlabError,
  type DriverImage,
  type DriverSnapshots,
  type Extent,
  type GuestRange,
  type ImageInfo,
  type ImageStats,
  type LongCallOptions,
  type OptionValues,
  type Placement,
  unsupported,
} from '@cowlab/core';
import { bitmapDetails } from './bitmap-directory.ts';
import { amendImage } from './amend.ts';
import { checkImage } from './check.ts';
import { CompressedClusters } from './compressed.ts';
import { CompressedWrites } from './compressed-writes.ts';
import { isFatal } from './corruption.ts';
import { emptyImage } from './empty.ts';
import { DataFileReservations } from './data-file-reservations.ts';
import { DataFileSubclusters } from './data-file-subclusters.ts';
import { type BackingSlot, Extents } from './extents.ts';
import { assertBackingFits } from './header-area.ts';
import type { ImageFile } from './image-file.ts';
import type { Mapping } from './mapping.ts';
import type { Metadata } from './metadata.ts';
import { Reservations } from './reservations.ts';
import { resizeImage } from './resize.ts';
import { SubclusterExtents } from './subcluster-extents.ts';
import { SubclusterReservations } from './subcluster-reservations.ts';
import { Qcow2Snapshots } from './snapshots.ts';
import type { SnapshotTable } from './snapshot-table.ts';

/*
 * One opened image. The order in which changes reach the disk; «flush» is the storage's:
 *
 *   guest write     data in place, or into clusters and subclusters that are free; the rest of this changes memory
 *                   only. The bitmap of an extended L2 entry changes with its entry: both lie in one sector
 *   compressed      the same: into space that is free, maybe behind other compressed bytes (compressed-writes.ts)
 *   flush           1  refcount blocks; new ones «flush» before the refcount table points to them
 *                      new L2 tables, and copies of shared ones: nothing points to them yet
 *                      «flush»       data, counts and new tables are durable
 *                   2  changed L2 tables in place, changed sectors of the L1 table
 *                      «flush»       what was written is reachable
 *                   3  in memory: counts of what was replaced go down; it can be taken again from here on.
 *                      They reach the disk with step 1 of the next flush.
 *   data file       its «flush» goes before each «flush» that makes counts and new tables durable, so before the
 *                   entries that point into it; a flush without changes of metadata is its «flush» alone. Zeros of a
 *                   discard go into it at once: an entry that a power loss leaves reads them, or what was there
 *   raw data file   bytes and zeros in place, no entry changes: it has them all. Those that another program left out are
 *                   made first: zeros «flush» → entries «flush» → the guest's bytes
 *   lazy refcounts  the dirty bit «flush» before the first of these; step 1 leaves counts out, close writes them
 *                   «flush» and clears the bit «flush»
 *   header          always one sector, alone, after a «flush» of all that it points to
 *   backing         all of a flush; counts «flush» → header that names another, or none «flush»
 *   bitmaps         IN_USE in their directory «flush» before the first change of data; written at close (bitmaps.ts)
 *   corruption      the corrupt bit «flush», alone; what is in memory stays there (corruption.ts, guard.ts)
 *   empty           as a snapshot operation: a new L1 table without entries
 *   snapshots       header: dirty bit «flush» → counts, COPIED flags, tables «flush» → header: new snapshot
 *                   table or L1 table, dirty bit cleared «flush» → discards. Version 2 has no dirty bit:
 *                   count up «flush» → header «flush» → count down «flush».
 *
 * So a power loss leaves clusters counted that nothing uses (a leak), never a cluster used that is not
 * counted. Inside a snapshot operation it leaves the dirty bit, and the next open for writing recounts.
 *
 * Whoever changes tables or counts, or writes them back, has his turn alone (turns.ts): what a write-back writes is
 * what there was when it began, and no table is changed between being written and being called clean.
 *
 * Memory is bounded: caches of L2 tables and refcount blocks evict clean tables only, and a commit writes
 * back, in the order above, when half of the L2 cache is dirty.
 */

/** What an image is made of; `metadata` only when it is open for writing. */
export interface ImageParts {
  readonly file: ImageFile;
  readonly mapping: Mapping;
  readonly snapshots: SnapshotTable;
  readonly metadata?: Metadata;
  readonly backing: BackingSlot;
  /** Cache sizes for snapshots that are opened, bytes. */
  readonly l2CacheBytes: number;
}

/** A snapshot opened as an image: its own tables over the file of the image that it is of. */
interface SnapshotView {
  /** Guest bytes, whatever the disk has now. */
  readonly size: number;
  readonly of: Qcow2Image;
}

/** Snapshots share clusters, and a data file has one place for each. */
const dataFileAlone: NonNullable<DriverImage['withoutSnapshots']> = {
  field: 'header.incompatible_features',
  problem: 'has no internal snapshots in an image with an external data file',
};

export class Qcow2Image implements DriverImage {
  readonly unitBytes: number;
  /** Space is taken by cluster, so whoever may take some holds whole clusters. */
  readonly reserveBytes: number;
  readonly snapshots?: DriverSnapshots;
  readonly withoutSnapshots?: NonNullable<DriverImage['withoutSnapshots']>;
  /** Absent where nothing can be written, or data lie in a file of their own. */
  readonly writeCompressed?: (offset: number, source: Uint8Array) => Awaitable<readonly GuestRange[]>;
  readonly #parts: ImageParts;
  readonly #extents: Extents;
  readonly #compressed: CompressedClusters;
  readonly #reservations: Reservations | undefined;
  /** Set for the view of a snapshot. */
  readonly #view: SnapshotView | undefined;

  constructor(parts: ImageParts, view?: SnapshotView) {
    const { file, mapping, backing, metadata } = parts;
    this.#parts = parts;
    this.#view = view;
    this.unitBytes = file.geometry.unitBytes;
    this.reserveBytes = file.geometry.clusterBytes;
    this.#compressed = new CompressedClusters(file);
    const { extendedL2 } = file.header;
    const ExtentsOfKind = extendedL2 ? SubclusterExtents : Extents;
    const ReservationsOfKind = extendedL2
      ? file.hasDataFile
        ? DataFileSubclusters
        : SubclusterReservations
      : file.hasDataFile
        ? DataFileReservations
        : Reservations;
    this.#extents = new ExtentsOfKind(file, mapping, this.#compressed, backing, metadata !== undefined);
    this.#reservations = metadata && new ReservationsOfKind(metadata, backing, this.#extents);
    if (metadata !== undefined && this.#reservations !== undefined && !file.hasDataFile) {
      const writes = new CompressedWrites(metadata, this.#reservations);
      this.writeCompressed = (offset, source) =>
        this.#watched(() =>
          andThen(file.bitmaps?.begin(), () => {
            file.bitmaps?.record(offset, source.length);
            return writes.write(offset, source).finally(() => this.#compressed.reset());
          }),
        );
    }
    if (file.hasDataFile) this.withoutSnapshots = dataFileAlone;
    else {
      const openView = (viewParts: ImageParts, size: number): DriverImage =>
        new Qcow2Image(viewParts, { size, of: this });
      this.snapshots = new Qcow2Snapshots(parts, openView);
    }
  }

  get size(): number {
    return this.#view?.size ?? this.#parts.file.header.size;
  }

  map(offset: number, length: number): Awaitable<Extent> {
    // As #watched does, without a function for each call: this is the hot path.
    try {
      const extent = this.#extents.at(offset, length);
      return extent instanceof Promise ? extent.catch((error: unknown) => this.#condemn(error)) : extent;
    } catch (error) {
      if (!isFatal(error)) throw error;
      return this.#condemn(error);
    }
  }

  reserve(offset: number, length: number): Awaitable<Placement> {
    const { bitmaps } = this.#parts.file;
    if (bitmaps === undefined) return this.#watched(() => this.#writable().reserve(offset, length));
    return this.#watched(() =>
      andThen(bitmaps.begin(), () =>
        andThen(this.#writable().reserve(offset, length), (placement) => {
          bitmaps.record(placement.guestOffset, placement.length);
          return placement;
        }),
      ),
    );
  }

  commit(placement: Placement): Awaitable<void> {
    this.#compressed.reset();
    return this.#watched(() => this.#writable().commit(placement));
  }

  /** Of a new image over a backing: every unit gets its place, and reads as the backing does until it is written. */
  setAside(placement: Placement): Awaitable<void> {
    const writes = this.#writable();
    if (writes instanceof SubclusterReservations) return writes.setAside(placement);
    throw new TypeError('only an extended L2 entry has a place for what the backing answers for');
  }

  abort(placement: Placement): void {
    this.#writable().abort(placement);
  }

  unmap(offset: number, length: number, mode: 'discard' | 'zero'): Awaitable<void> {
    this.#compressed.reset();
    const { bitmaps } = this.#parts.file;
    const bytes = Math.min(length, this.size - offset);
    return this.#watched(() =>
      andThen(bitmaps?.begin(), () => {
        bitmaps?.record(offset, bytes);
        return this.#writable().unmap(offset, bytes, mode);
      }),
    );
  }

  flush(): Awaitable<void> {
    return this.#watched(() => this.#parts.metadata?.flush());
  }

  async check(options: CheckOptions): Promise<CheckReport> {
    if (this.#view !== undefined) return this.#view.of.check(options);
    const { metadata } = this.#parts;
    // Marked when it was opened: nothing has changed since. Marked later: what is in memory is not to be trusted.
    if (metadata?.mayBeRepaired !== true) await metadata?.sync();
    return this.#watched(() => checkImage(this.#parts, options));
  }

  async resize(size: number, options: LongCallOptions): Promise<void> {
    const { metadata, backing } = this.#parts;
    if (metadata === undefined) throw this.#readOnly();
    const writes = this.#writable();
    const parts = { metadata, backing: backing.current, writes, extents: this.#extents };
    await this.#watched(() => this.#resizeWithBitmaps(size, () => resizeImage(parts, size, options)));
  }

  async #resizeWithBitmaps(size: number, resize: () => Promise<void>): Promise<void> {
    const { file } = this.#parts;
    const { bitmaps } = file;
    const before = this.size;
    if (size !== before) await bitmaps?.beginResize(size);
    try {
      await resize();
    } finally {
      if (this.size !== before) bitmaps?.resized(before, this.size);
    }
  }

  async releaseBacking(): Promise<void> {
    if (this.#parts.backing.current !== undefined) await this.changeBacking(undefined, undefined);
  }

  /** Everything is on disk before the header names another backing: one sector decides. */
  async changeBacking(reference: BackingReference | undefined, backing: Backing | undefined): Promise<void> {
    const { metadata, backing: slot, file } = this.#parts;
    if (metadata === undefined) throw this.#readOnly();
    if (reference !== undefined) {
      assertBackingFits(file.name, reference);
      if (file.hasRawDataFile)
        throw unsupported(file.name, 'data_file_raw', 'the data file would not be the disk');
    }
    await metadata.sync();
    await file.rewrite({ backing: reference ?? null });
    const before = slot.current;
    slot.current = backing;
    await before?.close();
  }

  async amend(values: OptionValues, options: LongCallOptions): Promise<void> {
    const { metadata, backing } = this.#parts;
    if (metadata === undefined) throw this.#readOnly();
    const parts = { image: this, metadata, backing: backing.current, writes: this.#writable() };
    // Afterwards nothing may be written any more.
    await this.#watched(() => metadata.sync());
    await this.#watched(() => metadata.file.bitmaps?.store());
    await this.#watched(() => amendImage(parts, values, options));
  }

  async empty(): Promise<void> {
    const { metadata } = this.#parts;
    if (metadata === undefined) throw this.#readOnly();
    this.#compressed.reset();
    await emptyImage(metadata);
  }

  async info(): Promise<ImageInfo> {
    const { file } = this.#parts;
    const { header, geometry } = file;
    return {
      format: 'qcow2',
      size: this.size,
      unitBytes: this.unitBytes,
      ...(header.backing && { backing: header.backing }),
      files: file.hasDataFile ? [file.name, file.dataStorage.name] : [file.name],
      storageBytes:
        (await allocatedBytes(file.storage)) +
        (file.hasDataFile ? await allocatedBytes(file.dataStorage) : 0),
      details: {
        compat: header.version === 3 ? '1.1' : '0.10',
        'cluster size': geometry.clusterBytes,
        'refcount bits': geometry.refcountBits,
        'compression type': header.compressionType,
        'lazy refcounts': header.lazyRefcounts,
        'extended l2': header.extendedL2,
        corrupt: header.damaged,
        snapshots: header.snapshotCount,
        ...(header.dataFile && { 'data file': header.dataFile.name, 'data file raw': header.dataFile.raw }),
        ...(await bitmapDetails(file)),
      },
    };
  }

  stats(): ImageStats {
    const { file, mapping, metadata, backing } = this.#parts;
    const below = backing.current?.stats().residentMetadataBytes ?? 0;
    const refcountBytesResident = metadata?.refcounts.residentBytes ?? 0;
    return {
      residentMetadataBytes:
        mapping.residentBytes +
        refcountBytesResident +
        this.#compressed.residentBytes +
        (this.#view === undefined
          ? (file.bitmaps?.residentBytes ?? 0) + (file.guard?.residentBytes ?? 0)
          : 0) +
        below,
      refcountBytesResident,
      l2CacheHits: mapping.tables.hits,
      l2CacheMisses: mapping.tables.misses,
    };
  }

  async close(): Promise<void> {
    // The view of a snapshot shares everything with the image that it is of.
    if (this.#view !== undefined) return;
    const { file, metadata, backing } = this.#parts;
    try {
      if (metadata !== undefined && !metadata.isBroken) {
        await this.#watched(() => metadata.sync());
        await this.#watched(() => file.bitmaps?.store());
      }
    } finally {
      await file.close();
      await backing.current?.close();
    }
  }

  /** Runs what may meet corruption that marks an image; without waiting, as long as nothing waits. */
  #watched<T>(run: () => Awaitable<T>): Awaitable<T> {
    try {
      const result = run();
      return result instanceof Promise ? result.catch((error: unknown) => this.#condemn(error)) : result;
    } catch (error) {
      if (!isFatal(error)) throw error;
      return this.#condemn(error);
    }
  }

  async #condemn(error: unknown): Promise<never> {
    await this.#parts.metadata?.condemn(error);
    throw error;
  }

  #writable(): Reservations {
    if (this.#reservations === undefined) throw this.#readOnly();
    return this.#reservations;
  }

  #readOnly(): CowlabError {
    const { name } = this.#parts.file;
    return new CowlabError('ERR_READ_ONLY', `${name}: the image is open read-only`, { file: name });
  }
}
