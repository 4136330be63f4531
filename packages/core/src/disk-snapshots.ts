import { setImmediate } from 'node:timers/promises';
import type {
  BlockDriver,
  DiffBatch,
  DiffExtent,
  DriverImage,
  DriverSnapshots,
  LongCallOptions,
  SnapshotInfo,
} from './driver.ts';
import type { Disk } from './disk.ts';
import { CowlabError } from './errors.ts';

/** A snapshot open as a disk. `pause` holds up its requests until the function that it yields is called. */
export interface OpenedSnapshot {
  readonly disk: Disk;
  readonly pause: () => Promise<() => void>;
}

/** What the snapshots of a disk need of the disk. */
export interface SnapshotHost {
  readonly file: string;
  readonly driver: BlockDriver;
  readonly image: DriverImage;
  readonly exclusively: <T>(run: () => Promise<T>, signal?: AbortSignal) => Promise<T>;
  readonly assertOpen: () => void;
  readonly assertWritable: () => void;
  readonly openDisk: (image: DriverImage, closed: () => void) => OpenedSnapshot;
}

const MAX_NAME_BYTES = 255;

/** The snapshots of a {@link Disk}. A snapshot is named by its `id` or its name; an id wins. */
export class DiskSnapshots {
  readonly #host: SnapshotHost;
  /** Opened snapshots by id; they must not be deleted, and close with the disk. */
  readonly #opened = new Map<string, Set<OpenedSnapshot>>();

  constructor(host: SnapshotHost) {
    this.#host = host;
  }

  /** All snapshots, oldest first; empty where the format has none. */
  async list(): Promise<readonly SnapshotInfo[]> {
    this.#host.assertOpen();
    const { snapshots } = this.#host.image;
    return snapshots === undefined ? [] : this.#host.exclusively(async () => snapshots.list());
  }

  /** One of the snapshots. Rejects with `ERR_SNAPSHOT_NOT_FOUND`. */
  async find(nameOrId: string): Promise<SnapshotInfo> {
    this.#host.assertOpen();
    return this.#host.exclusively(() => this.#find(nameOrId));
  }

  /**
   * Keeps the disk's present state. Durable when it returns. Rejects with `ERR_SNAPSHOT_EXISTS`, `ERR_SNAPSHOT_LIMIT`.
   * `createdAt` is now, unless the state is that of an earlier time.
   */
  async create(
    name: string,
    { createdAt = new Date() }: { readonly createdAt?: Date } = {},
  ): Promise<SnapshotInfo> {
    this.#host.assertWritable();
    const driver = this.#driver();
    this.#assertName(name);
    if (!(createdAt.getTime() >= 0)) throw new RangeError('createdAt is no time since 1970');
    return this.#host.exclusively(async () => {
      const present = await driver.list();
      if (present.some((snapshot) => snapshot.name === name)) {
        throw this.#error('ERR_SNAPSHOT_EXISTS', name, 'a snapshot of that name exists');
      }
      const { maxSnapshots } = this.#host.driver.capabilities;
      if (present.length >= maxSnapshots) {
        throw this.#error(
          'ERR_SNAPSHOT_LIMIT',
          name,
          `there are ${maxSnapshots} snapshots, the most this format can have`,
        );
      }
      return driver.create(name, createdAt);
    });
  }

  /** Deletes one snapshot; no other state changes. Rejects with `ERR_SNAPSHOT_NOT_FOUND`, or `ERR_BUSY` while it is open. */
  async delete(nameOrId: string, options: LongCallOptions = {}): Promise<void> {
    this.#host.assertWritable();
    const driver = this.#driver();
    await this.#host.exclusively(async () => {
      const { id } = await this.#find(nameOrId);
      if ((this.#opened.get(id)?.size ?? 0) > 0)
        throw this.#error('ERR_BUSY', nameOrId, 'the snapshot is open');
      await driver.delete(id, options);
    }, options.signal);
  }

  /** The disk's contents become the snapshot's; what they were is given up, every snapshot stays. */
  async apply(nameOrId: string, options: LongCallOptions = {}): Promise<void> {
    this.#host.assertWritable();
    const driver = this.#driver();
    await this.#host.exclusively(
      async () => driver.apply((await this.#find(nameOrId)).id, options),
      options.signal,
    );
  }

  /** Gives a snapshot another name; all else of it stays. Rejects as `create` does when the name is taken or cannot be one. */
  async rename(nameOrId: string, newName: string): Promise<void> {
    this.#host.assertWritable();
    const driver = this.#driver();
    if (driver.rename === undefined) throw this.#unsupported('renameSnapshots', 'does not rename snapshots');
    const rename = driver.rename.bind(driver);
    this.#assertName(newName);
    await this.#host.exclusively(async () => {
      const present = await driver.list();
      const { id, name } = this.#pick(present, nameOrId);
      if (name === newName) return;
      if (present.some((snapshot) => snapshot.name === newName)) {
        throw this.#error('ERR_SNAPSHOT_EXISTS', newName, 'a snapshot of that name exists');
      }
      await rename(id, newName);
    });
  }

  /**
   * Where a snapshot differs from another one, or from the disk as it is now, told from metadata: extents in rising
   * order that do not touch. Bytes outside of them are equal; bytes inside may be. Bytes that only the larger of two
   * states has are different. The disk may be used meanwhile: what is told of its present state holds for the moment
   * of the telling, so for an answer of one moment take a snapshot and compare with that.
   */
  async *diff(from: string, to?: string, options: LongCallOptions = {}): AsyncGenerator<DiffExtent> {
    let pending: DiffExtent | undefined;
    for await (const { extents } of this.#batches(from, to, options)) {
      for (const extent of extents) {
        if (pending !== undefined && pending.offset + pending.length === extent.offset) {
          pending = { offset: pending.offset, length: pending.length + extent.length };
        } else {
          if (pending !== undefined) yield pending;
          pending = extent;
        }
      }
    }
    if (pending !== undefined) yield pending;
  }

  /** Between two batches the disk's other callers have their turn, and timers and signals theirs. */
  async *#batches(
    from: string,
    to: string | undefined,
    { signal, onProgress }: LongCallOptions,
  ): AsyncGenerator<DiffBatch> {
    this.#host.assertOpen();
    const driver = this.#driver();
    if (driver.diff === undefined) throw this.#unsupported('diff', 'does not tell what differs');
    const diff = driver.diff.bind(driver);
    const [one, other] = await this.#host.exclusively(async () => {
      const present = await driver.list();
      return [this.#pick(present, from), to === undefined ? null : this.#pick(present, to)] as const;
    }, signal);
    const otherSize = (): number => other?.size ?? this.#host.image.size;
    let offset = 0;
    while (offset < Math.min(one.size, otherSize())) {
      this.#host.assertOpen();
      const batch = await this.#host.exclusively(async () => {
        const end = Math.min(one.size, otherSize());
        // The disk may have become smaller while this waited.
        return offset < end ? diff(one.id, other?.id ?? null, offset, end) : { extents: [], end };
      }, signal);
      offset = Math.max(offset, batch.end);
      yield batch;
      onProgress?.({ done: offset, total: Math.min(one.size, otherSize()) });
      await setImmediate();
    }
    const ends = [one.size, otherSize()].toSorted((a, b) => a - b) as [number, number];
    const start = Math.max(offset, ends[0]);
    if (start < ends[1]) yield { extents: [{ offset: start, length: ends[1] - start }], end: ends[1] };
  }

  /** The snapshot as a read-only disk. Close it before deleting the snapshot; it closes with its disk at the latest. */
  async open(nameOrId: string): Promise<Disk> {
    this.#host.assertOpen();
    const driver = this.#driver();
    return this.#host.exclusively(async () => {
      const { id } = await this.#find(nameOrId);
      const opened = this.#opened.get(id) ?? new Set();
      this.#opened.set(id, opened);
      const snapshot: OpenedSnapshot = this.#host.openDisk(await driver.open(id), () =>
        opened.delete(snapshot),
      );
      opened.add(snapshot);
      return snapshot.disk;
    });
  }

  /** Closes every snapshot that is still open. */
  async closeOpened(): Promise<void> {
    for (const { disk } of this.#allOpened()) await disk.close();
  }

  /** Holds up every snapshot that is open: what they read may be about to move. */
  async pauseOpened(): Promise<() => void> {
    const resumes = await Promise.all(this.#allOpened().map(({ pause }) => pause()));
    return () => {
      for (const resume of resumes) resume();
    };
  }

  #allOpened(): OpenedSnapshot[] {
    return [...this.#opened.values()].flatMap((snapshots) => [...snapshots]);
  }

  async #find(nameOrId: string): Promise<SnapshotInfo> {
    return this.#pick(await this.#driver().list(), nameOrId);
  }

  #pick(all: readonly SnapshotInfo[], nameOrId: string): SnapshotInfo {
    const found = all.find(({ id }) => id === nameOrId) ?? all.find(({ name }) => name === nameOrId);
    if (found === undefined) throw this.#error('ERR_SNAPSHOT_NOT_FOUND', nameOrId, 'no such snapshot');
    return found;
  }

  #driver(): DriverSnapshots {
    const { snapshots, withoutSnapshots } = this.#host.image;
    if (snapshots !== undefined) return snapshots;
    const { field, problem } = withoutSnapshots ?? { field: 'snapshots', problem: 'has no snapshots' };
    throw this.#unsupported(field, problem);
  }

  #unsupported(field: string, problem: string): CowlabError {
    const { file, driver } = this.#host;
    return new CowlabError('ERR_UNSUPPORTED', `${file}: ${driver.name} ${problem}`, { file, field });
  }

  #assertName(name: string): void {
    const problem =
      name === ''
        ? 'is empty'
        : Buffer.byteLength(name) > MAX_NAME_BYTES
          ? `is longer than ${MAX_NAME_BYTES} bytes of UTF-8`
          : /[\p{Control}\p{Surrogate}"]/u.test(name)
            ? 'has control characters, quotation marks or half a surrogate pair'
            : undefined;
    if (problem !== undefined) throw this.#error('ERR_INVALID_OPTION', name, `the name ${problem}`);
  }

  #error(code: CowlabError['code'], name: string, problem: string): CowlabError {
    const { file } = this.#host;
    return new CowlabError(code, `${file}: snapshot ${JSON.stringify(name)}: ${problem}`, {
      file,
      field: 'snapshot',
      value: name,
    });
  }
}
