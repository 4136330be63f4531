/**
 * What a disk has to be: plain bytes for the writable state, and a copy of them for every snapshot. It is
 * obviously right and not fast; drivers are compared with it.
 *
 *     write, writeZeroes   every byte of the range
 *     discard              the whole units of the range read zero; a unit cut by the range keeps its bytes.
 *                          The last unit counts as whole when the range reaches the end of the disk
 *     snapshots            named copies; apply copies back (with the size), every snapshot stays
 */
export class ReferenceModel {
  /** The allocation unit, bytes: what `discard` rounds to. */
  readonly unitBytes: number;
  /** State by snapshot name, in the order of creation. */
  readonly snapshots: ReadonlyMap<string, Uint8Array>;
  readonly #snapshots = new Map<string, Uint8Array>();
  #bytes: Uint8Array;

  /** `size` in bytes. Zeros, unless `initial` (a backing's bytes, perhaps shorter) says otherwise. */
  constructor(size: number, unitBytes: number, initial?: Uint8Array) {
    this.unitBytes = unitBytes;
    this.snapshots = this.#snapshots;
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
  }

  deleteSnapshot(name: string): void {
    this.snapshot(name);
    this.#snapshots.delete(name);
  }

  applySnapshot(name: string): void {
    this.#bytes = this.snapshot(name).slice();
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
