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

/** One file of a chain. Never changed: an image may open what it names again and again. */
interface Link {
  readonly depth: number;
  /**
   * The files of the chain and their depths, as far as `depth`; what is deeper is another link's, which goes on from
   * here. So a chain that is opened from end to end has one map, and is asked once for each file.
   */
  readonly known: Map<string, number>;
}

/** A file that was let through: the name under which the folder opens it, and who it is. */
export interface Admitted {
  readonly name: string;
  readonly identity: string;
}

function isBelow(folder: string, identity: string): boolean {
  return identity.startsWith(folder.endsWith('/') ? folder : `${folder}/`);
}

/** What the files of one image may name. Folders are identified once: where they lie does not depend on the file. */
class Policy {
  readonly folder: StorageFolder;
  readonly maxDepth: number;
  readonly #allow: readonly string[];
  #places: Promise<readonly string[]> | undefined;

  constructor(folder: StorageFolder, { allow = [], maxDepth = DEFAULT_MAX_DEPTH }: GatePolicy) {
    this.folder = folder;
    this.maxDepth = maxDepth;
    this.#allow = allow;
  }

  async isInside(identity: string): Promise<boolean> {
    const places = await (this.#places ??= this.#identifyAll());
    return places.some((place) => isBelow(place, identity));
  }

  async #identifyAll(): Promise<readonly string[]> {
    try {
      const names = ['.', ...this.#allow.map((folder) => path.resolve(folder))];
      return await Promise.all(names.map((name) => this.folder.identify(name)));
    } catch (error) {
      this.#places = undefined;
      throw error;
    }
  }
}

/** Stands below one file of a chain, and admits what that file names. */
export class BackingGate {
  readonly #policy: Policy;
  readonly #chain: Link | undefined;

  private constructor(policy: Policy, chain: Link | undefined) {
    this.#policy = policy;
    this.#chain = chain;
  }

  /** The gate above an image that nobody has named. */
  static above(folder: StorageFolder, policy: GatePolicy = {}): BackingGate {
    return new BackingGate(new Policy(folder, policy), undefined);
  }

  /** The gate for what `file` names, once `file` itself is part of the chain; `identity` where it was admitted. */
  async below(file: string, identity?: string): Promise<BackingGate> {
    const own = identity ?? (await this.#policy.folder.identify(file));
    const depth = this.#chain?.depth ?? 0;
    const above = this.#chain?.known ?? new Map<string, number>();
    const isEnd = above.size === depth;
    const known = isEnd ? above : new Map([...above].filter(([, at]) => at <= depth));
    known.set(own, depth + 1);
    return new BackingGate(this.#policy, { depth: depth + 1, known });
  }

  /** Lets through what the image `from` names in `field`; throws `ERR_BACKING_…`. */
  async admit(from: string, reference: BackingReference, field: string): Promise<Admitted> {
    const admitted = await this.admitNew(from, reference, field);
    if (await this.#policy.folder.exists(admitted.name)) return admitted;
    const data = { file: from, field, value: reference.file };
    const problem = `no such file: ${reference.file}`;
    throw new CowlabError('ERR_BACKING_MISSING', `${from}: ${field}: ${problem}`, data);
  }

  /** As `admit`, for a file that may still have to be made. */
  async admitNew(from: string, reference: BackingReference, field: string): Promise<Admitted> {
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
    const { folder, maxDepth } = this.#policy;
    const identity = await folder.identify(name);
    if (!(await this.#policy.isInside(identity)) && !(await this.#isBeside(from, identity))) {
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
    if ((this.#chain?.depth ?? 0) >= maxDepth) {
      throw new CowlabError('ERR_BACKING_DEPTH', `${from}: ${field}: chain is longer than ${maxDepth}`, data);
    }
    return { name, identity };
  }

  /** In the folder of the image at the top, which its caller may have named by a way out of the gate's folder. */
  async #isBeside(from: string, identity: string): Promise<boolean> {
    if (this.#chain?.depth !== 1) return false;
    const own = await this.#policy.folder.identify(path.dirname(from));
    return isBelow(own, identity);
  }

  #hasAbove(identity: string): boolean {
    const at = this.#chain?.known.get(identity);
    return at !== undefined && at <= this.#chain!.depth;
  }
}
