import type { Awaitable } from './awaitable.ts';

/**
 * What a storage call is for. Drivers tag their metadata calls with it; wrappers (counting, fault, crash)
 * read it; storages ignore it. A call without a purpose is guest data.
 */
export type Purpose = 'data' | 'header' | 'mapping' | 'journal' | 'refcount' | 'snapshot';

/** What a storage knows of a run of bytes: `data` false means that it reads as zeros and takes no space. */
export interface StorageStatus {
  readonly data: boolean;
  /** Bytes from the asked offset for which this answer holds; at least 1, at most what was asked. */
  readonly length: number;
}

/**
 * Who else may have the file open. `exclusive`: nobody else holds a lock on it (who writes); `shared`: others may hold
 * shared ones (who reads, and does not want it to change); `none`: anybody may do anything.
 */
export type LockMode = 'none' | 'shared' | 'exclusive';

/**
 * Host bytes that an image lives in. Offsets and lengths are bytes, whole numbers up to 2^53 - 1.
 *
 * Every method may throw (or reject with) a CowlabError: `ERR_IO`, `ERR_NO_SPACE`, `ERR_CLOSED`,
 * `ERR_READ_ONLY`. A method that has nothing to wait for returns no promise.
 */
export interface Storage {
  /** The file's name as its folder knows it; for messages. */
  readonly name: string;
  readonly readOnly: boolean;
  /**
   * True for a device, whose length is given: `size` does not tell where an image in it ends, and what lies behind that
   * may hold anything. Growing it rejects with `ERR_NO_SPACE`; `truncate` to less does nothing.
   */
  readonly fixedSize?: boolean;
  /** Current length in bytes. */
  size(): number;
  /** Fills `target` from `offset`. Bytes past the end read as zeros. */
  read(offset: number, target: Uint8Array, purpose?: Purpose): Awaitable<void>;
  /** Writes all of `source` at `offset`; grows the storage when it reaches past the end. */
  write(offset: number, source: Uint8Array, purpose?: Purpose): Awaitable<void>;
  /** Makes the range read as zeros, without moving bytes where the medium can; grows like `write`. */
  zero(offset: number, length: number, purpose?: Purpose): Awaitable<void>;
  /** The range is no longer needed: its space may be given back. Its contents are undefined afterwards. */
  discard(offset: number, length: number, purpose?: Purpose): Awaitable<void>;
  /** Takes space on the medium for the range, so that later writes find some; what it reads as stays. Grows like `write`. */
  allocate(offset: number, length: number, purpose?: Purpose): Awaitable<void>;
  /** When it completes, everything whose call completed before it is durable. */
  flush(): Awaitable<void>;
  truncate(length: number): Awaitable<void>;
  /** Whether `offset` lies in a hole, and for how long the answer holds. `{ data: true }` when unknown. */
  status(offset: number, length: number): Awaitable<StorageStatus>;
  /**
   * Takes a lock on the file, or changes the one this storage has; `ERR_LOCKED` when it meets one that another storage
   * holds, here or in another process, and then the old one stays. It belongs to the file, whatever names that has,
   * and is gone when the storage is closed or the process ends.
   */
  lock(mode: LockMode): Awaitable<void>;
  /** Idempotent. Does not flush. */
  close(): Awaitable<void>;
}

/** Bytes of a storage that take space on its medium; all of them, where it cannot tell holes from data. */
export async function allocatedBytes(storage: Storage): Promise<number> {
  let bytes = 0;
  for (let at = 0; at < storage.size(); ) {
    const { data, length } = await storage.status(at, storage.size() - at);
    if (data) bytes += length;
    at += length;
  }
  return bytes;
}

export interface StorageOpenOptions {
  readonly readOnly: boolean;
  /** `none` by default; see {@link Storage.lock}. */
  readonly lock?: LockMode;
}

/**
 * Named storages side by side: chains, backing files and side files live here. Names are relative paths
 * with `/`, or absolute paths where the folder is of a file system. A folder enforces no policy: the
 * backing gate does, before it opens anything that an image names.
 */
export interface StorageFolder {
  /** Rejects with `ERR_NOT_FOUND` when there is no such file, `ERR_LOCKED` when the lock is not to be had. */
  open(name: string, options: StorageOpenOptions): Promise<Storage>;
  /** Makes an empty file. Rejects with `ERR_EXISTS` when the name is taken. */
  create(name: string): Promise<Storage>;
  exists(name: string): Promise<boolean>;
  /** Removes the name; storages that are open on it go on. */
  remove(name: string): Promise<void>;
  /** Moves a name, atomically; takes the place of a file that has the new name. */
  rename(from: string, to: string): Promise<void>;
  /** Gives a file a second name. Rejects with `ERR_EXISTS` when that name is taken. */
  link(from: string, to: string): Promise<void>;
  /** The names in this folder, sorted; not those of subfolders. */
  list(): Promise<string[]>;
  /** Makes the names (not the contents) durable: what was created, removed, renamed or linked stays so. */
  flush(): Promise<void>;
  /** Who a name is, whatever way it is written: for cycle checks and allow-lists. An absolute real path for files. */
  identify(name: string): Promise<string>;
  /** The identity of the folder itself. */
  readonly location: string;
}
