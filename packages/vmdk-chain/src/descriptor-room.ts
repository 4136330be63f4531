import { corrupt, type Storage, unsupported } from '@cowlab/core';
import { Descriptor, NO_PARENT, newCid } from './descriptor.ts';
import { MAX_DESCRIPTOR_BYTES, SECTOR } from './layout.ts';

/*
 * Where a descriptor lies, and how it is changed there: in the room that the header of an extent gives it, or in a
 * file of its own, which the text may make longer.
 *
 * The CID says which content a child was made from. It changes with the first write after an open, durably and
 * before the write itself, so that a parent that was written to behind its child's back is noticed at open.
 */

export interface Room {
  readonly storage: Storage;
  readonly offset: number;
  /** Bytes; undefined for a file of its own. */
  readonly length: number | undefined;
}

/** The text and the zeros behind it, as they are to stand in the room. Throws `ERR_UNSUPPORTED` when it does not fit. */
export function padded(
  file: string,
  descriptor: Descriptor,
  room: Pick<Room, 'storage' | 'length'>,
): Uint8Array {
  const text = descriptor.encode();
  const most = room.length ?? MAX_DESCRIPTOR_BYTES;
  if (text.length > most) throw unsupported(file, 'descriptor', `${text.length} bytes do not fit ${most}`);
  const bytes = new Uint8Array(room.length ?? Math.max(text.length, room.storage.size()));
  bytes.set(text);
  return bytes;
}

async function readText(file: string, { storage, offset, length }: Room): Promise<Uint8Array> {
  const bytes = length ?? storage.size();
  if (bytes > MAX_DESCRIPTOR_BYTES) {
    throw unsupported(file, 'descriptor', `${bytes} bytes are more than ${MAX_DESCRIPTOR_BYTES}`);
  }
  const text = new Uint8Array(bytes);
  await storage.read(offset, text, 'header');
  return text;
}

export class DescriptorRoom {
  readonly #room: Room;
  #file: string;
  #descriptor: Descriptor;
  #cidIsNew = false;
  #cidChange: Promise<void> | undefined;
  /** The CID of the parent, where the descriptor has another one; see {@link acceptsParent}. */
  #foundParentCid: number | undefined;
  /** What has to be done before the CID may change. */
  #unsettled: (() => Promise<void>) | undefined;

  private constructor(file: string, room: Room, descriptor: Descriptor) {
    this.#file = file;
    this.#room = room;
    this.#descriptor = descriptor;
  }

  /** Reads a descriptor and checks what every disk must have. Throws `ERR_CORRUPT`. */
  static async read(file: string, room: Room): Promise<DescriptorRoom> {
    const descriptor = Descriptor.parse(await readText(file, room));
    descriptor.cid(file, 'CID');
    const parentCid = descriptor.cid(file, 'parentCID');
    if (parentCid !== NO_PARENT && descriptor.get('parentFileNameHint') === undefined) {
      throw corrupt(file, 'descriptor.parentFileNameHint', 'is missing, though there is a parentCID');
    }
    return new DescriptorRoom(file, room, descriptor);
  }

  get descriptor(): Descriptor {
    return this.#descriptor;
  }

  /** The file's name now. */
  get file(): string {
    return this.#file;
  }

  moved(file: string): void {
    this.#file = file;
  }

  get cid(): number {
    return this.#descriptor.cid(this.#file, 'CID');
  }

  /** The CID that the parent has; see {@link acceptsParent}. */
  get parentCid(): number {
    return this.#foundParentCid ?? this.#descriptor.cid(this.#file, 'parentCID');
  }

  /** The parent's file as the descriptor names it; undefined without a parent. */
  get parentHint(): string | undefined {
    return this.parentCid === NO_PARENT ? undefined : this.#descriptor.get('parentFileNameHint');
  }

  /** Whether this opening has a CID of its own already: then writes may go in place. */
  get cidIsNew(): boolean {
    return this.#cidIsNew;
  }

  /** The file was made just now: nobody has recorded its CID. */
  keepCid(): void {
    this.#cidIsNew = true;
  }

  /** Gives the content about to change an id of its own; once for each opening. */
  changeCid(cid?: number): Promise<void> {
    this.#cidChange ??= this.#changeCid(cid);
    return this.#cidChange;
  }

  /**
   * Whether a parent of this CID is the one that this file was made over. One with the file's own CID is, too: a merge
   * or a commit has given it that, because it gets the file's content, and then power failed before the file's descriptor
   * said so (snapshots.ts). The next change of the descriptor does.
   */
  acceptsParent(cid: number): boolean {
    if (cid === this.parentCid) return true;
    if (cid !== this.cid) return false;
    this.#foundParentCid = cid;
    return true;
  }

  /**
   * Gives the parent this file's CID, and the name for an extent that it has inside, since it is about to get the file's
   * content and place; then records that CID. When it fails in between, the next change of this file's CID goes on with
   * it first: who has the parent's old CID recorded must not get another CID while it is not known which one the parent
   * has.
   */
  async lendIdentity(parent: DescriptorRoom, extentName: string | undefined): Promise<void> {
    const lend = async (): Promise<void> => {
      await parent.#standInFor(this, extentName);
      this.#foundParentCid = this.cid;
    };
    this.#unsettled = lend;
    // The medium must have what memory has, should an earlier change have failed half-way.
    await this.change(() => undefined);
    await lend();
    await this.change(() => undefined);
    this.#unsettled = undefined;
  }

  /** Gives the parent this file's CID, since it is about to get its content, but not its place; then records that. */
  async lendCid(parent: DescriptorRoom): Promise<void> {
    await parent.changeCid(this.cid);
    this.#foundParentCid = this.cid;
    await this.change(() => undefined);
  }

  /**
   * Writes the sectors of the descriptor that change: one, unless the text is laid out as by others. Then the first
   * sector comes last, on its own: until it is there the old one is followed by lines that it has already, and of
   * two lines with one key the first counts.
   */
  async change(change: (next: Descriptor) => void): Promise<void> {
    const next = this.#descriptor.clone();
    if (this.#foundParentCid !== undefined) next.setParent(this.#foundParentCid, this.parentHint);
    change(next);
    const { storage, offset } = this.#room;
    const wanted = padded(this.#file, next, this.#room);
    const current = new Uint8Array(wanted.length);
    await storage.read(offset, current, 'header');
    let written = 0;
    for (let at = SECTOR * Math.floor((wanted.length - 1) / SECTOR); at >= 0; at -= SECTOR) {
      const sector = wanted.subarray(at, at + SECTOR);
      if (sector.every((byte, i) => byte === current[at + i])) continue;
      if (at === 0 && written > 0) await storage.flush();
      await storage.write(offset + at, sector, 'header');
      written++;
    }
    await storage.flush();
    this.#descriptor = next;
    this.#foundParentCid = undefined;
  }

  async #standInFor(child: DescriptorRoom, extentName: string | undefined): Promise<void> {
    await this.change((next) => {
      next.setCid(child.cid);
      if (extentName !== undefined) next.setExtentName(extentName);
    });
    this.#cidIsNew = child.cidIsNew;
  }

  async #changeCid(cid: number | undefined): Promise<void> {
    if (this.#cidIsNew && cid === undefined) return;
    try {
      await this.#unsettled?.();
      await this.change((next) => next.setCid(cid ?? newCid()));
      this.#unsettled = undefined;
      this.#cidIsNew = true;
    } catch (error) {
      this.#cidChange = undefined;
      throw error;
    }
  }
}
