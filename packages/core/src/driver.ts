import type { Awaitable } from './awaitable.ts';
import type { LockMode, Storage, StorageFolder, StorageOpenOptions } from './storage.ts';

/*
 * The seam between a format and everything else. A driver says where guest bytes are (`map`), where new
 * ones go (`reserve`), and makes that true (`commit`); core moves the bytes, validates, orders requests and
 * opens backing files. Callers hold a Disk and never see this interface.
 */

/** What can be read: a disk, or the backing of one. */
export interface ReadSource {
  /** Bytes. */
  readonly size: number;
  /** Fills `target` from `offset`; the range lies within `size`. */
  read(offset: number, target: Uint8Array): Awaitable<void>;
  /** One extent at `offset`, its bytes resolved through the whole chain: no `backing` kind comes back. */
  resolve(offset: number, length: number): Awaitable<ResolvedExtent>;
}

/** Bytes that lie in a storage as they are. */
export interface DataExtent {
  readonly kind: 'data';
  readonly length: number;
  readonly storage: Storage;
  readonly hostOffset: number;
  /** True when nothing else refers to these bytes: they may be overwritten where they are. */
  readonly owned: boolean;
}

/** Bytes that read as zeros. `allocated`: the image says so itself; otherwise nothing in it is mapped here. */
export interface ZeroExtent {
  readonly kind: 'zero';
  readonly length: number;
  readonly allocated: boolean;
}

/** Bytes that the backing answers for, at `offset` in it; past its end they are zeros. */
export interface BackingExtent {
  readonly kind: 'backing';
  readonly length: number;
  readonly source: ReadSource;
  readonly offset: number;
}

/** Bytes that are stored in another form (compressed). `read` yields the extent's first bytes. */
export interface EncodedExtent {
  readonly kind: 'encoded';
  readonly length: number;
  read(target: Uint8Array): Awaitable<void>;
}

/** A run of guest bytes with one answer to "where is it?". `length` is at least 1. */
export type Extent = DataExtent | ZeroExtent | BackingExtent | EncodedExtent;

/** An extent with the chain walked: `depth` 0 is the image itself, 1 its backing, and so on. */
export interface ResolvedExtent {
  readonly kind: 'data' | 'zero' | 'encoded';
  readonly length: number;
  readonly depth: number;
  /** True when some image of the chain has these bytes or says that they are zero. */
  readonly allocated: boolean;
  /** Where the bytes are, for `data` only. */
  readonly storage?: Storage;
  readonly hostOffset?: number;
}

/**
 * Where the bytes of a write go. The driver has set the space aside; nothing refers to it before `commit`.
 * Core writes `head` old bytes, the `length` new ones and `tail` old ones in one piece at
 * `hostOffset - head`, so that whole allocation units arrive.
 */
export interface Placement {
  readonly storage: Storage;
  /** Guest bytes `guestOffset … guestOffset + length` are taken care of; `guestOffset` is what was asked for. */
  readonly guestOffset: number;
  readonly length: number;
  /** Where the byte of `guestOffset` goes. */
  readonly hostOffset: number;
  /** Old guest bytes directly before and after that must be there too. The old state still answers for them. */
  readonly head: number;
  readonly tail: number;
  /** The host bytes are known to read as zeros already: zero fill in `head` and `tail` may be left out. */
  readonly fresh: boolean;
}

export interface SnapshotInfo {
  /** Unique in the image, never used again. */
  readonly id: string;
  readonly name: string;
  readonly createdAt: Date;
  /** Guest bytes of the disk when it was taken. */
  readonly size: number;
  /** The `id` of the snapshot this one grew from; null for a first one; undefined where the format does not keep it. */
  readonly parent?: string | null;
}

export interface Progress {
  readonly done: number;
  readonly total: number;
}

/** For calls that may take long. An abort rejects with `ERR_ABORTED` and leaves the image as it was before the call. */
export interface LongCallOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
}

/** A run of guest bytes. */
export interface GuestRange {
  readonly offset: number;
  readonly length: number;
}

/** A run of guest bytes that may differ between two states. */
export type DiffExtent = GuestRange;

/** A part of the answer to `diff`. */
export interface DiffBatch {
  /** In rising order, without overlaps: whole units, cut at the ends of the range that was asked for. */
  readonly extents: readonly DiffExtent[];
  /** All differences before this offset are in `extents`; past the start of what was asked for, at most its end. */
  readonly end: number;
}

/** Snapshot operations. Core has quiesced the image, and has checked names: create's is free, the others' ids exist. */
export interface DriverSnapshots {
  list(): Awaitable<readonly SnapshotInfo[]>;
  /** Durable and whole when it returns; wholly absent after a crash before. */
  create(name: string, createdAt: Date): Promise<SnapshotInfo>;
  delete(id: string, options: LongCallOptions): Promise<void>;
  /** The writable state becomes the snapshot's; what it was is given up. Every snapshot stays. */
  apply(id: string, options: LongCallOptions): Promise<void>;
  /** A read-only image of the snapshot; stays valid while the image is written to. */
  open(id: string): Promise<DriverImage>;
  /**
   * Present when `capabilities.renameSnapshots`. The name is free. Durable when it returns; after a crash before, the
   * snapshot has one of the two names. Id, time and contents stay.
   */
  rename?(id: string, name: string): Promise<void>;
  /**
   * Present when `capabilities.diff`. Where two states (snapshots by id, null for the disk as it is now) may differ
   * between `offset` and `end`, which lie in both, by metadata alone. Misses no difference, and reports nothing
   * that both states map alike. Keeps nothing for later calls, and looks at a bounded amount of metadata: it may
   * stop before `end`.
   */
  diff?(from: string | null, to: string | null, offset: number, end: number): Promise<DiffBatch>;
}

export interface Finding {
  /** `corruption`: bytes or structures are wrong. `leak`: space is marked used that nothing uses. */
  readonly severity: 'corruption' | 'leak';
  /** The structure, in the format's words: `refcount block`, `grain table`. */
  readonly structure: string;
  readonly message: string;
  readonly file: string;
  readonly hostOffset?: number;
  readonly repaired: boolean;
}

export interface CheckReport {
  readonly corruptions: number;
  readonly leaks: number;
  /** Findings that were repaired; they are counted in the two above no longer. */
  readonly repaired: number;
  /** At most the first 1,000. */
  readonly findings: readonly Finding[];
  /** Guest bytes that have a place of their own in this image. */
  readonly allocatedBytes: number;
  /** Bytes up to the last one in use. */
  readonly imageEndBytes: number;
}

export interface CheckOptions extends LongCallOptions {
  readonly repair?: 'leaks' | 'all';
}

export interface CompactOptions extends LongCallOptions {
  /** Data may be copied to free places before it, so that its own place at the end becomes free. */
  readonly move?: boolean;
}

/** What became of an image's files. */
export interface CompactReport {
  /** Length of the files together. */
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  /** Bytes of data that lie elsewhere now. */
  readonly movedBytes: number;
}

export interface ImageInfo {
  readonly format: string;
  /** Guest bytes. */
  readonly size: number;
  /** The allocation unit. */
  readonly unitBytes: number;
  readonly backing?: BackingReference;
  /** Every file that belongs to the image itself, the main one first; names as the folder knows them. */
  readonly files: readonly string[];
  /** Bytes on the host that hold this image (allocated, where the storage can tell). */
  readonly storageBytes: number;
  /** What only this format has, in its own words: `cluster size`, `journal size`. */
  readonly details: Readonly<Record<string, string | number | boolean>>;
}

/** Counters of an open image; every driver has the first, and adds its own. */
export interface ImageStats {
  /** Bytes of mapping metadata held in memory now: tables, caches, bitmaps, buffers; this image and its chain. */
  readonly residentMetadataBytes: number;
  readonly [counter: string]: number;
}

/**
 * One opened image. May assume: ranges are whole, within `size`, and not empty; writes only on an image
 * opened for writing; requests ordered as `capabilities.concurrency` says; snapshot operations, `resize`,
 * `compact`, `check` and `close` run alone.
 */
export interface DriverImage {
  /** Guest bytes. */
  readonly size: number;
  /** Allocation unit, bytes, a power of two: `unmap` ranges are multiples of it (or reach the end of the disk). */
  readonly unitBytes: number;
  /**
   * A power of two from `unitBytes` on, for drivers that change more than the units of a request when they reserve
   * or unmap: such a request holds all bytes between multiples of it, so nobody else is at work there.
   */
  readonly reserveBytes?: number;
  /** The longest extent from `offset` that the driver can tell cheaply, at most `length`. */
  map(offset: number, length: number): Awaitable<Extent>;
  /** Sets space aside for a write at `offset`, where `map` gave no owned data; covers as much of `length` as lies together. */
  reserve(offset: number, length: number): Awaitable<Placement>;
  /** The bytes are in place: make them visible. Changes memory only, or writes metadata in crash-safe order. */
  commit(placement: Placement): Awaitable<void>;
  /** The bytes did not arrive: give the space back. */
  abort(placement: Placement): void;
  /**
   * Present when this image can store units in compressed form (see `capabilities.compress`). `source` is whole units, or
   * reaches the end of the disk. Stores those that get smaller by it, visible as after a `commit`, and returns the others,
   * and those that are a part of what is compressed as one (`reserveBytes`), in rising order, as they were: core writes
   * them as any other bytes. What it throws after, it may have stored in part, whole units each. May be called again
   * before it is done, for other units.
   */
  writeCompressed?(offset: number, source: Uint8Array): Awaitable<readonly GuestRange[]>;
  /**
   * True for an image that is being written as a stream: it takes compressed writes only, each unit once, in the order
   * of the disk, and leaves none of them over; what was left out reads as zeros. Other changes reject with
   * `ERR_UNSUPPORTED`, and so does a write behind the last one. It is whole, and can be read, when `close` has returned; a
   * flush before that promises nothing.
   */
  readonly compressedOnly?: boolean;
  /** The range reads as zeros from now on. `discard` frees its space; `zero` may keep it. */
  unmap(offset: number, length: number, mode: 'discard' | 'zero'): Awaitable<void>;
  /** Makes everything visible now durable, in crash-safe order. */
  flush(): Awaitable<void>;
  /** Present when `capabilities.snapshots` is not `none` and `withoutSnapshots` is absent. */
  readonly snapshots?: DriverSnapshots;
  /** Why this image has no snapshots although the format can have some: the feature of it that does not allow them. */
  readonly withoutSnapshots?: { readonly field: string; readonly problem: string };
  check(options: CheckOptions): Promise<CheckReport>;
  /** Present when `capabilities.resize` is not `none`. New bytes read as zeros. */
  resize?(size: number, options: LongCallOptions): Promise<void>;
  /**
   * Present when `capabilities.releaseBacking`. Forgets the backing, durably, and closes it: core has made sure that
   * neither the disk nor a snapshot needs a byte of it. Everything visible before is durable when the image names no
   * backing any more; a crash or failure before leaves it named. Without a backing it does nothing.
   */
  releaseBacking?(): Promise<void>;
  /**
   * Present when `capabilities.changeBacking`. Names another backing, or none, durably, closes the present one and goes
   * on with `backing`, which is what `reference` names, opened. Core has made sure that the disk and its snapshots read
   * as before, or was told not to mind. Everything visible before is durable when the image names the new one; one
   * moment decides, and who rejects still has the old one and leaves `backing` alone.
   */
  changeBacking?(reference: BackingReference | undefined, backing: Backing | undefined): Promise<void>;
  /**
   * Present when `capabilities.empty`. Gives up everything that the disk has of its own: its backing answers for all of
   * it, and core has made sure that it answers the same. Snapshots stay. Durable when it returns; at each moment every
   * byte reads as before.
   */
  empty?(): Promise<void>;
  /**
   * Present when `capabilities.backingContentId`. `parent`, open for writing, is the backing whose content id this image
   * has recorded, and is about to change: gives it the id of what it will be, durably, and records that one here. After
   * a crash at any moment the image still takes the parent for its own. Throws `ERR_CORRUPT` when it is another one.
   */
  followBacking?(parent: DriverImage): Promise<void>;
  /**
   * Present when `capabilities.amend` has names. Create options get other values; the disk and its snapshots read as
   * before. Values are of the options that can be amended, and checked. At each moment the image is whole. Only `close`
   * is called afterwards.
   */
  amend?(values: OptionValues, options: LongCallOptions): Promise<void>;
  /**
   * Present when `capabilities.compact` is not `none`. Gives space that is free at the end of the file back. Crash-safe
   * at every step; the disk and its snapshots read as before, also those that are open. With `move`, data go to free
   * places first, in steps that are durable each: an abort between two of them keeps what was moved.
   */
  compact?(options: CompactOptions): Promise<CompactReport>;
  info(): Awaitable<ImageInfo>;
  stats(): ImageStats;
  /** Writes back what is left to write (when open for writing) and closes storages and backing. */
  close(): Promise<void>;
}

/** What a driver can do. Callers, the command line and the conformance suite read this and nothing else. */
export interface Capabilities {
  /** Images can be created and written. */
  readonly write: boolean;
  /** `internal`: in the same file; `chain`: a file for each. */
  readonly snapshots: 'none' | 'internal' | 'chain';
  /** Most snapshots an image can have; 0 without snapshots. */
  readonly maxSnapshots: number;
  /** Snapshots can be given another name. */
  readonly renameSnapshots: boolean;
  /** `SnapshotInfo.parent` is kept: a snapshot's is the one the disk stood on; children of a deleted one get its parent. */
  readonly snapshotParents: boolean;
  /** What differs between two states can be told without reading their data. */
  readonly diff: boolean;
  /** Images can have a backing file. */
  readonly backing: boolean;
  /** An image can record that a snapshot of its backing file answers, not the file's disk: it is a clone of that. */
  readonly backingSnapshot: boolean;
  /** A backing that is needed no longer can be released. */
  readonly releaseBacking: boolean;
  /** An image can be given another backing, or none, in place of the one it has. */
  readonly changeBacking: boolean;
  /** An image over a backing can be emptied, so that the backing answers for everything. */
  readonly empty: boolean;
  /** An image records which content of its backing it was made from, and takes no other. */
  readonly backingContentId: boolean;
  readonly resize: 'none' | 'grow' | 'both';
  /**
   * `units`: any unit can be stored in compressed form, where the image says so (`writeCompressed`). `streams`: images that are created as streams have
   * all their units in that form, others none.
   */
  readonly compress: 'none' | 'units' | 'streams';
  /** `trim`: free space at the end of the file can be given back. `move`: and data moved, to make it free. */
  readonly compact: 'none' | 'trim' | 'move';
  /** How large an image would be can be told before it is made. */
  readonly measure: boolean;
  /** Create options that can be given other values later. */
  readonly amend: readonly string[];
  /** What `check` can repair. */
  readonly repair: readonly ('leaks' | 'all')[];
  /** `serial`: one request at a time. `perRange`: requests on disjoint units run side by side, flush beside them. */
  readonly concurrency: 'serial' | 'perRange';
  /** What `check` may find after power loss at any moment. Corruption is never allowed. */
  readonly afterPowerLoss: 'clean' | 'leaks';
  /** Largest disk, guest bytes, with default options. */
  readonly maxSize: number;
  /** Disk sizes are multiples of this many bytes. */
  readonly sizeMultiple: number;
}

export type OptionValue = string | number | boolean;

/** One create option: what the command line prints and `create` checks. Sizes are in bytes and of type `size`. */
export interface OptionSpec {
  readonly type: 'size' | 'number' | 'boolean' | 'string' | 'choice';
  readonly default?: OptionValue;
  readonly choices?: readonly string[];
  readonly help: string;
}

export type OptionTable = Readonly<Record<string, OptionSpec>>;
export type OptionValues = Readonly<Record<string, OptionValue>>;

export interface BackingReference {
  /** As it will be recorded in the image: relative to the image's own folder, or absolute. */
  readonly file: string;
  readonly format?: string;
  /** Not the file's disk but one of its snapshots answers: the snapshot's `id`. */
  readonly snapshot?: string;
}

/** What an image is to be. */
export interface NewImage {
  /** Guest bytes. */
  readonly size: number;
  readonly backing?: BackingReference;
  /** Checked against the driver's option table, defaults filled in. */
  readonly options: OptionValues;
}

export interface CreateRequest extends NewImage {
  /**
   * Makes a file that is to hold bytes of the image itself, or takes an empty one, through the gate; locked, open for
   * writing. `field` names the option that asks for it. The driver closes it; when the create fails core takes it back.
   */
  createPart(name: string, field: string): Promise<Storage>;
}

/** Bytes that are to be written. */
export interface MeasuredRun {
  readonly offset: number;
  readonly length: number;
}

/** An image that could be made, and written to. */
export interface MeasureRequest {
  /** Guest bytes. */
  readonly size: number;
  /** Create options, as for `create`. */
  readonly options: OptionValues;
  /** What is to be written, in rising order, without overlaps; some of it may turn out to be zeros. */
  readonly runs: AsyncIterable<MeasuredRun>;
}

/** Length of an image's files together. */
export interface Measurement {
  /** At most, when the image is made, written to once from its start to its end, and closed. */
  readonly requiredBytes: number;
  /** The same when all of the disk is written. */
  readonly fullyAllocatedBytes: number;
}

/** An opened backing: what a driver reads through and closes with itself. */
export interface Backing extends ReadSource {
  readonly format: string;
  /** The image under it, for drivers that walk their own chains. */
  readonly image: DriverImage;
  /** Counters of what is open for it, its own chain included. */
  stats(): ImageStats;
  close(): Promise<void>;
}

export interface OpenContext {
  readonly readOnly: boolean;
  /** Opened for writing by somebody who only wants `check` to repair: a format may let in an image that it else refuses. */
  readonly forRepair: boolean;
  /** The lock that the image's file is to be opened with. A driver that moves to another file takes it along. */
  readonly lock: LockMode;
  /** Opens a file that the image names, read-only, through the backing gate. `field` names where it was found. */
  openBacking(reference: BackingReference, field: string): Promise<Backing>;
  /**
   * Opens a file that holds bytes of the image itself (an extent, an external data file), through the same gate, to be
   * read or written as the image is, with its lock; or with `access`, for a part of a snapshot. The driver closes it.
   */
  openPart(name: string, field: string, access?: StorageOpenOptions): Promise<Storage>;
  /** Options for this opening, by the driver's `openOptions` table (cache sizes, ablations). */
  readonly options: OptionValues;
}

/** One format. */
export interface BlockDriver {
  /** `fvd`, `qcow2`, `vmdk`, `raw`. */
  readonly name: string;
  readonly capabilities: Capabilities;
  /** Create options. */
  readonly options: OptionTable;
  readonly openOptions: OptionTable;
  /** How sure the driver is that these first bytes (up to 4,096) are its format: 0 no … 100 certainly. */
  probe(head: Uint8Array): number;
  /** Writes a new, empty image into `file`, which exists and is empty; durable when it returns. */
  create(folder: StorageFolder, file: string, request: CreateRequest): Promise<void>;
  /** Present when `capabilities.measure`. Makes nothing, and asks no file. */
  measure?(request: MeasureRequest): Promise<Measurement>;
  /** Opens an image. A rejected open has modified nothing and has closed what it opened. */
  open(folder: StorageFolder, file: string, context: OpenContext): Promise<DriverImage>;
}
