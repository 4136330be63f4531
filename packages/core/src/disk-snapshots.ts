import type { BlockDriver, DriverImage, DriverSnapshots, LongCallOptions, SnapshotInfo } from './driver.ts';
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

  /** Keeps the disk's present state. Durable when it returns. Rejects with `ERR_SNAPSHOT_EXISTS`, `ERR_SNAPSHOT_LIMIT`. */
  async create(name: string): Promise<SnapshotInfo> {
    this.#host.assertWritable();
    const driver = this.#driver();
    this.#assertName(name);
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
      return driver.create(name, new Date());
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
    const all = await this.#driver().list();
    const found = all.find(({ id }) => id === nameOrId) ?? all.find(({ name }) => name === nameOrId);
    if (found === undefined) throw this.#error('ERR_SNAPSHOT_NOT_FOUND', nameOrId, 'no such snapshot');
    return found;
  }

  #driver(): DriverSnapshots {
    const { snapshots } = this.#host.image;
    if (snapshots === undefined) {
      const { file, driver } = this.#host;
      throw new CowlabError('ERR_UNSUPPORTED', `${file}: ${driver.name} has no snapshots`, {
        file,
        field: 'snapshots',
      });
    }
    return snapshots;
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
