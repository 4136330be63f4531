/**
 * What a disk has to be: plain bytes for the writable state, and a copy of them for every snapshot. It is
 * obviously right and not fast; drivers are compared with it.
 *
 *     write, writeZeroes   every byte of the range
 *     discard              the whole units of the range read zero; a unit cut by the range keeps its bytes.
 *                          The last unit counts as whole when the range reaches the end of the disk
 *     snapshots            named copies; apply copies back (with the size), every snapshot stays
 *     parents              of a snapshot, the one that was created or applied last before it; when that one is
 *                          deleted, its own parent
 */
export class ReferenceModel {
  /** The allocation unit, bytes: what `discard` rounds to. */
  readonly unitBytes: number;
  /** State by snapshot name, in the order of creation. */
  readonly snapshots: ReadonlyMap<string, Uint8Array>;
  /** The parent by snapshot name; null for none. */
  readonly parents: ReadonlyMap<string, string | null>;
  readonly #snapshots = new Map<string, Uint8Array>();
  readonly #parents = new Map<string, string | null>();
  #current: string | null = null;
  #bytes: Uint8Array;

  /** `size` in bytes. Zeros, unless `initial` (a backing's bytes, perhaps shorter) says otherwise. */
  constructor(size: number, unitBytes: number, initial?: Uint8Array) {
    this.unitBytes = unitBytes;
    this.snapshots = this.#snapshots;
    this.parents = this.#parents;
    this.#bytes = new Uint8Array(size);
    if (initial !== undefined) this.#bytes.set(initial.subarray(0, size));
  }

  get size(): number {
    return this.#bytes.length;
  }

  /** The writable state; valid until the next call that changes it. */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  /** A copy. Throws RangeError outside the disk, as every method here does. */
  read(offset: number, length: number): Uint8Array {
    this.#checkRange(offset, length);
    return this.#bytes.slice(offset, offset + length);
  }

  write(offset: number, source: Uint8Array): void {
    this.#checkRange(offset, source.length);
    this.#bytes.set(source, offset);
  }

  writeZeroes(offset: number, length: number): void {
    this.#checkRange(offset, length);
    this.#bytes.fill(0, offset, offset + length);
  }

  discard(offset: number, length: number): void {
    this.#checkRange(offset, length);
    const unit = this.unitBytes;
    const end = offset + length;
    const first = Math.ceil(offset / unit) * unit;
    const last = end === this.size ? end : Math.floor(end / unit) * unit;
    if (last > first) this.#bytes.fill(0, first, last);
  }

  /** New bytes are zeros. */
  resize(size: number): void {
    const bytes = new Uint8Array(size);
    bytes.set(this.#bytes.subarray(0, size));
    this.#bytes = bytes;
  }

  /** Throws when the name is taken. */
  createSnapshot(name: string): void {
    if (this.#snapshots.has(name)) throw new Error(`there is a snapshot ${name} already`);
    this.#snapshots.set(name, this.#bytes.slice());
    this.#parents.set(name, this.#current);
    this.#current = name;
  }

  deleteSnapshot(name: string): void {
    this.snapshot(name);
    this.#snapshots.delete(name);
    const heir = this.#parents.get(name) ?? null;
    this.#parents.delete(name);
    this.#passOn(name, heir);
  }

  applySnapshot(name: string): void {
    this.#bytes = this.snapshot(name).slice();
    this.#current = name;
  }

  /** The snapshot keeps its place in the order of creation. Throws when the new name is taken. */
  renameSnapshot(name: string, newName: string): void {
    this.snapshot(name);
    if (this.#snapshots.has(newName)) throw new Error(`there is a snapshot ${newName} already`);
    for (const map of [this.#snapshots, this.#parents] as Map<string, unknown>[]) {
      const entries = [...map];
      map.clear();
      for (const [key, value] of entries) map.set(key === name ? newName : key, value);
    }
    this.#passOn(name, newName);
  }

  /** Who grew from `from` grows from `to`. */
  #passOn(from: string, to: string | null): void {
    for (const [child, parent] of this.#parents) if (parent === from) this.#parents.set(child, to);
    if (this.#current === from) this.#current = to;
  }

  /** The bytes of a snapshot. Throws when there is none of that name. */
  snapshot(name: string): Uint8Array {
    const bytes = this.#snapshots.get(name);
    if (bytes === undefined) throw new Error(`there is no snapshot ${name}`);
    return bytes;
  }

  #checkRange(offset: number, length: number): void {
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
    if (!whole || offset < 0 || length < 0 || offset + length > this.size) {
      throw new RangeError(`${offset}+${length} is outside a disk of ${this.size} bytes`);
    }
  }
}
