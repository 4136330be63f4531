import path from 'node:path';
import type { BackingReference } from './driver.ts';
import { CowlabError } from './errors.ts';
import type { StorageFolder } from './storage.ts';

/*
 * The backing gate. An image is input: it may name any path of this machine as its backing file, and whoever
 * reads the disk would read that file. So every file that an image names passes here before it is opened:
 * inside the image's own folder or an allowed one, not deeper than a limit, and never twice in one chain.
 */

export interface GatePolicy {
  /** Folders (absolute paths) whose files may be backing files, beside the image's own folder. */
  readonly allow?: readonly string[];
  /** Most images in one chain; 4,096 by default. */
  readonly maxDepth?: number;
}

const DEFAULT_MAX_DEPTH = 4096;

/** One file of a chain, and what is above it. Never changed: an image may open what it names again and again. */
interface Link {
  readonly identity: string;
  readonly depth: number;
  readonly above: Link | undefined;
}

/** Stands below one file of a chain, and admits what that file names. */
export class BackingGate {
  readonly #folder: StorageFolder;
  readonly #policy: GatePolicy;
  readonly #chain: Link | undefined;

  constructor(folder: StorageFolder, policy: GatePolicy = {}, chain?: Link) {
    this.#folder = folder;
    this.#policy = policy;
    this.#chain = chain;
  }

  /** The gate for what `file` names, once `file` itself is part of the chain. */
  async below(file: string): Promise<BackingGate> {
    const identity = await this.#folder.identify(file);
    const link: Link = { identity, depth: (this.#chain?.depth ?? 0) + 1, above: this.#chain };
    return new BackingGate(this.#folder, this.#policy, link);
  }

  /** The name under which the folder opens what the image `from` names in `field`; throws `ERR_BACKING_…`. */
  async admit(from: string, reference: BackingReference, field: string): Promise<string> {
    const data = { file: from, field, value: reference.file };
    const plain = reference.file.startsWith('file:') ? reference.file.slice('file:'.length) : reference.file;
    if (/^[a-z][a-z0-9+.-]+:/i.test(plain)) {
      throw new CowlabError(
        'ERR_UNSUPPORTED',
        `${from}: ${field}: not a plain file: ${reference.file}`,
        data,
      );
    }
    const name = path.isAbsolute(plain) ? plain : path.join(path.dirname(from), plain);
    const identity = await this.#folder.identify(name);
    const home = await this.#folder.identify('.');
    const inside = (folder: string): boolean =>
      identity.startsWith(folder.endsWith('/') ? folder : `${folder}/`);
    if (!inside(home) && !(await this.#allowed()).some(inside)) {
      throw new CowlabError(
        'ERR_BACKING_DENIED',
        `${from}: ${field}: ${reference.file} lies outside the image's folder and is not allowed`,
        data,
      );
    }
    if (this.#hasAbove(identity)) {
      throw new CowlabError(
        'ERR_BACKING_CYCLE',
        `${from}: ${field}: ${reference.file} is in its own chain`,
        data,
      );
    }
    const maxDepth = this.#policy.maxDepth ?? DEFAULT_MAX_DEPTH;
    if ((this.#chain?.depth ?? 0) >= maxDepth) {
      throw new CowlabError('ERR_BACKING_DEPTH', `${from}: ${field}: chain is longer than ${maxDepth}`, data);
    }
    if (!(await this.#folder.exists(name))) {
      throw new CowlabError(
        'ERR_BACKING_MISSING',
        `${from}: ${field}: no such file: ${reference.file}`,
        data,
      );
    }
    return name;
  }

  #allowed(): Promise<string[]> {
    const folders = this.#policy.allow ?? [];
    return Promise.all(folders.map((folder) => this.#folder.identify(path.resolve(folder))));
  }

  /** A step for each image above: for a chain of a thousand half a million comparisons, some milliseconds in all. */
  #hasAbove(identity: string): boolean {
    for (let link = this.#chain; link !== undefined; link = link.above) {
      if (link.identity === identity) return true;
    }
    return false;
  }
}
