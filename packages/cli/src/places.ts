import path from 'node:path';
import {
  type BlockDriver,
  FileFolder,
  type FileIo,
  probeStorage,
  type Storage,
  type StorageFolder,
  type StorageOpenOptions,
} from '@cowlab/core';
import { isNbdUri, NbdFolder } from '@cowlab/nbd';

/* Where an image is that somebody types: a path, or the URI of an export that an NBD server has. */

export interface Place {
  readonly folder: StorageFolder;
  /** As the folder knows it. */
  readonly file: string;
  /** Who was opened through it: what an image consists of, backing files included. */
  readonly opened: ReadonlySet<string>;
  /** Names that were made through it. */
  readonly made: ReadonlySet<string>;
}

export function placeOf(typed: string, io: FileIo = 'sync'): Place {
  if (isNbdUri(typed)) return exportPlace(typed);
  const folder = new RecordingFolder(path.dirname(typed), { io });
  return { folder, file: path.basename(typed), opened: folder.opened, made: folder.made };
}

function exportPlace(uri: string): Place {
  const folder = new ExportFolder(uri);
  return { folder, file: folder.file, opened: new Set([folder.location]), made: new Set() };
}

/** What a folder calls the file. */
export function fileOf(typed: string): string {
  return isNbdUri(typed) ? typed : path.basename(typed);
}

/**
 * An export whose format is probed by the connection that is used afterwards: a server may end with its first client, or
 * take no second one.
 */
export class ExportFolder extends NbdFolder {
  #connection: Storage | undefined;

  async probe(drivers: readonly BlockDriver[], readOnly: boolean): Promise<BlockDriver> {
    this.#connection = await super.open(this.file, { readOnly });
    return probeStorage(this.#connection, drivers);
  }

  override async open(name: string, options: StorageOpenOptions): Promise<Storage> {
    const connection = this.#connection;
    if (connection === undefined || connection.readOnly !== options.readOnly)
      return super.open(name, options);
    if (options.lock !== undefined) await connection.lock(options.lock);
    this.#connection = undefined;
    return connection;
  }

  /** When nobody has come to use it. */
  async disconnect(): Promise<void> {
    await this.#connection?.close();
    this.#connection = undefined;
  }
}

/** A folder that remembers which files were opened through it, and which names it has made. */
class RecordingFolder extends FileFolder {
  readonly opened = new Set<string>();
  readonly made = new Set<string>();

  override async open(name: string, options: StorageOpenOptions): Promise<Storage> {
    const storage = await super.open(name, options);
    this.opened.add(await this.identify(name));
    return storage;
  }

  override async create(name: string): Promise<Storage> {
    const storage = await super.create(name);
    this.made.add(name);
    return storage;
  }

  override async link(from: string, to: string): Promise<void> {
    await super.link(from, to);
    this.made.add(to);
  }

  override async rename(from: string, to: string): Promise<void> {
    await super.rename(from, to);
    this.made.add(to);
  }
}
