import fs from 'node:fs';
import path from 'node:path';
import { CowlabError, fromSystemError } from './errors.ts';
import { type FileIo, FileStorage, StreamedFileStorage, ThreadedFileStorage } from './file-storage.ts';
import type { Storage, StorageFolder, StorageOpenOptions } from './storage.ts';

const { O_CREAT, O_EXCL, O_RDONLY, O_RDWR } = fs.constants;

/** An image may name a pipe as its backing file: opening one must not wait for somebody at its other end. */
const NO_WAIT = fs.constants.O_NONBLOCK ?? 0;

function realPathOf(full: string): string | undefined {
  try {
    return fs.realpathSync.native(full);
  } catch {
    return undefined;
  }
}

const kinds = { sync: FileStorage, threads: ThreadedFileStorage, streamed: StreamedFileStorage };

export interface FileFolderOptions {
  /** How the storages do their I/O; `sync` by default. */
  readonly io?: FileIo;
}

/** A directory of the file system. Names are relative to it, or absolute. */
export class FileFolder implements StorageFolder {
  readonly location: string;
  readonly #io: FileIo;

  constructor(directory: string, options: FileFolderOptions = {}) {
    this.location = path.resolve(directory);
    this.#io = options.io ?? 'sync';
  }

  async open(name: string, options: StorageOpenOptions): Promise<Storage> {
    const storage = this.#storage(name, options.readOnly ? O_RDONLY : O_RDWR, options.readOnly);
    try {
      if (options.lock !== undefined) await storage.lock(options.lock);
    } catch (error) {
      await storage.close();
      throw error;
    }
    return storage;
  }

  async create(name: string): Promise<Storage> {
    return this.#storage(name, O_RDWR | O_CREAT | O_EXCL, false);
  }

  async exists(name: string): Promise<boolean> {
    return fs.existsSync(this.#resolve(name));
  }

  async remove(name: string): Promise<void> {
    await this.#call(name, 'unlink', () => fs.promises.unlink(this.#resolve(name)));
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#call(from, 'rename', () => fs.promises.rename(this.#resolve(from), this.#resolve(to)));
  }

  async link(from: string, to: string): Promise<void> {
    await this.#call(to, 'link', () => fs.promises.link(this.#resolve(from), this.#resolve(to)));
  }

  async list(): Promise<string[]> {
    const entries = await this.#call('.', 'readdir', () =>
      fs.promises.readdir(this.location, { withFileTypes: true }),
    );
    return entries
      .filter((entry) => !entry.isDirectory())
      .map((entry) => entry.name)
      .toSorted();
  }

  async flush(): Promise<void> {
    // Windows opens no directories; what NTFS does with names is in its own journal.
    if (process.platform === 'win32') return;
    await this.#call('.', 'fsync', async () => {
      const directory = await fs.promises.open(this.location, 'r');
      try {
        await directory.sync();
      } finally {
        await directory.close();
      }
    });
  }

  async identify(name: string): Promise<string> {
    const full = this.#resolve(name);
    // A file that is not there has no real path; its folder may have one.
    const parent = path.dirname(full);
    return realPathOf(full) ?? path.join(realPathOf(parent) ?? parent, path.basename(full));
  }

  #resolve(name: string): string {
    return path.resolve(this.location, name);
  }

  #storage(name: string, flags: number, readOnly: boolean): Storage {
    let fd: number;
    try {
      fd = fs.openSync(this.#resolve(name), flags | NO_WAIT);
    } catch (error) {
      throw fromSystemError(error, name, 'open');
    }
    if (!fs.fstatSync(fd).isFile()) {
      fs.closeSync(fd);
      throw new CowlabError('ERR_UNSUPPORTED', `${name}: not a regular file`, {
        file: name,
        field: 'file type',
      });
    }
    return new kinds[this.#io](name, fd, readOnly, this.#resolve(name));
  }

  async #call<T>(name: string, call: string, run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      throw fromSystemError(error, name, call);
    }
  }
}
