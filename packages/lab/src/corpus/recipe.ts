import { Random } from '@cowlab/conformance';

/*
 * What an image of the corpus is made of, as plain data: layers from the bottom up, each with its create options and what
 * is done to it. A seed is a recipe, and the seed's remainder says which kind: as many seeds in a row as there are kinds
 * have each kind once.
 */

export type Texture = 'dense' | 'repetitive' | 'noise';

export type Step =
  | {
      readonly do: 'write' | 'compressed';
      readonly at: number;
      readonly length: number;
      readonly texture: Texture;
    }
  | { readonly do: 'zeroes' | 'discard'; readonly at: number; readonly length: number }
  | { readonly do: 'snapshot' | 'apply' | 'delete' | 'bitmap'; readonly name: string }
  | { readonly do: 'resize'; readonly size: number };

type Options = Readonly<Record<string, string>>;

export interface Layer {
  readonly format: 'raw' | 'qcow2' | 'vmdk';
  readonly size: number;
  readonly options: Options;
  readonly steps: readonly Step[];
}

export interface Recipe {
  readonly seed: number;
  readonly kind: string;
  /** The image itself is the last one. */
  readonly layers: readonly Layer[];
}

const KIB = 1024;
const MIB = 1024 * KIB;
const SECTOR = 512;

/** What an image is to have, whatever else falls to it by lot. */
interface Wish {
  readonly kind: string;
  readonly format: 'qcow2' | 'vmdk';
  readonly has: readonly string[];
  readonly subformat?: string;
}

const wishes: readonly Wish[] = [
  { kind: 'qcow2, plain', format: 'qcow2', has: [] },
  { kind: 'qcow2, zlib', format: 'qcow2', has: ['zlib'] },
  { kind: 'qcow2, zstd', format: 'qcow2', has: ['zstd'] },
  { kind: 'qcow2, extended L2', format: 'qcow2', has: ['extended L2'] },
  { kind: 'qcow2, data file', format: 'qcow2', has: ['data file'] },
  { kind: 'qcow2, raw data file', format: 'qcow2', has: ['raw data file'] },
  { kind: 'qcow2, preallocation', format: 'qcow2', has: ['preallocation'] },
  { kind: 'qcow2, backing', format: 'qcow2', has: ['backing'] },
  { kind: 'qcow2, snapshots', format: 'qcow2', has: ['snapshots'] },
  { kind: 'qcow2, bitmaps', format: 'qcow2', has: ['bitmaps'] },
  { kind: 'qcow2, resize', format: 'qcow2', has: ['resize'] },
  { kind: 'qcow2, backing and snapshots', format: 'qcow2', has: ['backing', 'snapshots'] },
  { kind: 'qcow2, zlib and snapshots', format: 'qcow2', has: ['zlib', 'snapshots'] },
  { kind: 'qcow2, version 2', format: 'qcow2', has: ['version 2'] },
  { kind: 'vmdk, monolithicSparse', format: 'vmdk', has: [], subformat: 'monolithicSparse' },
  { kind: 'vmdk, zeroed grains', format: 'vmdk', has: ['zeroed grains'], subformat: 'monolithicSparse' },
  { kind: 'vmdk, backing', format: 'vmdk', has: ['backing'], subformat: 'monolithicSparse' },
  { kind: 'vmdk, twoGbMaxExtentSparse', format: 'vmdk', has: [], subformat: 'twoGbMaxExtentSparse' },
  { kind: 'vmdk, monolithicFlat', format: 'vmdk', has: [], subformat: 'monolithicFlat' },
  { kind: 'vmdk, twoGbMaxExtentFlat', format: 'vmdk', has: [], subformat: 'twoGbMaxExtentFlat' },
  { kind: 'vmdk, streamOptimized', format: 'vmdk', has: [], subformat: 'streamOptimized' },
];

/** Seeds in a row that have every kind. */
export const kindCount: number = wishes.length;

/** One chance in `of`. */
function chance(random: Random, of: number): boolean {
  return random.below(of) === 0;
}

/** What an image has: what it must have, and by lot what goes with that. */
class Features {
  readonly #has: Set<string>;

  constructor(wish: Wish, random: Random) {
    this.#has = new Set(wish.has);
    if (wish.format === 'qcow2') this.#addQcow2(random);
    else if (wish.subformat === 'monolithicSparse' && chance(random, 3)) this.#has.add('zeroed grains');
  }

  has(name: string): boolean {
    return this.#has.has(name);
  }

  #addQcow2(random: Random): void {
    const without = (...names: string[]): boolean => !names.some((name) => this.#has.has(name));
    const add = (name: string, of: number): void => {
      if (chance(random, of)) this.#has.add(name);
    };
    const newer = ['zstd', 'extended L2', 'data file', 'raw data file', 'bitmaps', 'resize'];
    if (without(...newer)) add('version 2', 6);
    if (without('zlib', 'zstd', 'data file', 'raw data file', 'preallocation')) add('zlib', 4);
    if (without('version 2')) add('extended L2', 6);
    if (without('raw data file', 'preallocation')) add('backing', 4);
    if (without('data file', 'raw data file')) add('snapshots', 3);
    // QEMU preallocates over a backing file with extended L2 entries only.
    if (without('zlib', 'zstd') && (without('backing') || this.has('extended L2'))) add('preallocation', 6);
    if (without('version 2', 'snapshots')) add('bitmaps', 6);
    if (without('version 2', 'raw data file')) add('resize', 5);
    if (without('version 2')) add('lazy refcounts', 4);
  }
}

/** Guest bytes, a whole number of sectors. */
function drawSize(random: Random, unitBytes: number): number {
  const most = Math.max(5 * MIB, 5 * unitBytes);
  return SECTOR * (1 + MIB / SECTOR + random.below((most - MIB) / SECTOR));
}

function drawOptions(features: Features, random: Random): { options: Options; unitBytes: number } {
  const least = features.has('extended L2') ? 14 : 9;
  const unitBytes =
    2 **
    random.pick(
      [least, 12, 14, 16, 16, 17, 19, 21, least + random.below(22 - least)].filter((bits) => bits >= least),
    );
  const options: Record<string, string> = { cluster_size: String(unitBytes) };
  if (features.has('version 2')) return { options: { ...options, compat: '0.10' }, unitBytes };
  const widths = features.has('snapshots') ? [16, 16, 32, 64] : [1, 2, 4, 8, 16, 16, 32, 64];
  options.refcount_bits = String(random.pick(widths));
  if (features.has('lazy refcounts')) options.lazy_refcounts = 'on';
  if (features.has('zstd')) options.compression_type = 'zstd';
  if (features.has('extended L2')) options.extended_l2 = 'on';
  if (features.has('data file') || features.has('raw data file')) options.data_file = 'top.data';
  if (features.has('raw data file')) options.data_file_raw = 'on';
  if (features.has('preallocation')) options.preallocation = random.pick(['metadata', 'falloc', 'full']);
  return { options, unitBytes };
}

/** Steps for one layer, in an order that each of them is possible in. */
class StepWriter {
  readonly steps: Step[] = [];
  size: number;
  readonly #random: Random;
  readonly #unitBytes: number;
  readonly #snapshots: string[] = [];
  /** Units that have had something: QEMU compresses over nothing. */
  readonly #touched = new Set<number>();
  #named = 0;

  constructor(random: Random, size: number, unitBytes: number) {
    this.#random = random;
    this.size = size;
    this.#unitBytes = unitBytes;
  }

  /** Mostly whole sectors, now and then any bytes. */
  range(): { at: number; length: number } {
    const random = this.#random;
    const grain = chance(random, 3) ? 1 : SECTOR;
    const at = random.below(Math.floor(this.size / grain)) * grain;
    const longest = random.pick([4 * KIB, 64 * KIB, 400 * KIB, 3 * this.#unitBytes]);
    const length = grain * (1 + random.below(Math.max(1, longest / grain)));
    return { at, length: Math.min(length, this.size - at) };
  }

  /** Whole units; the last one may be cut off by the end of the disk. */
  units(): { at: number; length: number } {
    const unit = this.#unitBytes;
    const count = Math.ceil(this.size / unit);
    const first = this.#random.below(count);
    const end = Math.min(
      count,
      first + 1 + this.#random.below(Math.max(1, Math.min(24, (512 * KIB) / unit))),
    );
    return { at: first * unit, length: Math.min(end * unit, this.size) - first * unit };
  }

  texture(): Texture {
    return this.#random.pick(['dense', 'repetitive', 'noise']);
  }

  #touch({ at, length }: { at: number; length: number }): { at: number; length: number } {
    const end = Math.ceil((at + length) / this.#unitBytes);
    for (let unit = Math.floor(at / this.#unitBytes); unit < end; unit++) this.#touched.add(unit);
    return { at, length };
  }

  write(): void {
    this.steps.push({ do: 'write', ...this.#touch(this.range()), texture: this.texture() });
  }

  /** A run of units that have had nothing; an ordinary write where the lot finds none. */
  compressed(): void {
    const { at, length } = this.units();
    const first = at / this.#unitBytes;
    let end = first;
    while (end * this.#unitBytes < at + length && !this.#touched.has(end)) end++;
    if (end === first) return this.write();
    const free = { at, length: Math.min(end * this.#unitBytes, this.size) - at };
    this.steps.push({ do: 'compressed', ...this.#touch(free), texture: this.texture() });
  }

  zeroes(): void {
    const range = chance(this.#random, 2) ? this.units() : this.range();
    this.steps.push({ do: 'zeroes', ...this.#touch(range) });
  }

  discard(): void {
    const range = chance(this.#random, 2) ? this.units() : this.range();
    this.steps.push({ do: 'discard', ...this.#touch(range) });
  }

  snapshot(): void {
    const name = `s${this.#named++}`;
    this.#snapshots.push(name);
    this.steps.push({ do: 'snapshot', name });
  }

  /** Goes back to a snapshot, where QEMU can, or deletes one; the last one stays. */
  pastSnapshot(goesBack: boolean): void {
    if (this.#snapshots.length < 2) return;
    const at = this.#random.below(this.#snapshots.length - 1);
    if (goesBack && chance(this.#random, 2)) {
      this.steps.push({ do: 'apply', name: this.#snapshots[at]! });
      return;
    }
    this.steps.push({ do: 'delete', name: this.#snapshots.splice(at, 1)[0]! });
  }

  bitmap(): void {
    this.steps.push({ do: 'bitmap', name: `b${this.#named++}` });
  }

  resize(): void {
    const size = drawSize(this.#random, this.#unitBytes);
    const whole = Math.ceil(size / this.#unitBytes) * this.#unitBytes;
    // QEMU leaves the rest of a unit that it cuts, and shows it again once the disk is larger.
    this.size = size < this.size ? Math.min(whole, this.size) : size;
    this.steps.push({ do: 'resize', size: this.size });
  }
}

function qcow2Layer(features: Features, random: Random, over: boolean): Layer {
  const { options, unitBytes } = drawOptions(features, random);
  const size = drawSize(random, unitBytes);
  const writer = new StepWriter(random, size, unitBytes);
  // Version 2 has no zero clusters: what a discard leaves over a backing is QEMU's own affair.
  const discards = !(over && features.has('version 2'));
  const compresses = features.has('zlib') || features.has('zstd');
  const rounds = 2 + random.below(3);
  for (let round = 0; round < rounds; round++) {
    if (features.has('bitmaps')) writer.bitmap();
    const count = 3 + random.below(6);
    for (let at = 0; at < count; at++) {
      const lot = random.below(10);
      if (compresses && lot < 5) writer.compressed();
      else if (lot === 8) writer.zeroes();
      else if (lot === 9 && discards) writer.discard();
      else writer.write();
    }
    if (features.has('snapshots')) writer.snapshot();
    // Going back would go back in size, and QEMU deletes nothing that is larger than the disk.
    else if (features.has('resize')) writer.resize();
    if (features.has('snapshots') && chance(random, 2)) writer.pastSnapshot(!features.has('bitmaps'));
  }
  writer.write();
  return { format: 'qcow2', size, options, steps: writer.steps };
}

function vmdkLayer(wish: Wish, features: Features, random: Random, size: number): Layer {
  const subformat = wish.subformat ?? 'monolithicSparse';
  const sparse = subformat === 'monolithicSparse' || subformat === 'twoGbMaxExtentSparse';
  const options: Record<string, string> = {
    subformat,
    adapter_type: random.pick(['ide', 'buslogic', 'lsilogic', 'legacyESX']),
  };
  if (features.has('zeroed grains') && sparse) options.zeroed_grain = 'on';
  if (chance(random, 4)) options.hwversion = '6';
  const writer = new StepWriter(random, size, 64 * KIB);
  const count = 5 + random.below(12);
  for (let at = 0; at < count; at++) {
    if (chance(random, 5)) writer.zeroes();
    else writer.write();
  }
  return { format: 'vmdk', size, options, steps: writer.steps };
}

function rawLayer(random: Random): Layer {
  const size = drawSize(random, 64 * KIB);
  const writer = new StepWriter(random, size, 64 * KIB);
  for (let at = 0; at < 6; at++) writer.write();
  return { format: 'raw', size, options: {}, steps: writer.steps };
}

/** So many seeds in a row, from the given one on; with a word, those whose kind has it in its name. */
export function seedsFrom(first: number, count: number, word = ''): number[] {
  if (!wishes.some(({ kind }) => kind.includes(word))) return [];
  const seeds: number[] = [];
  for (let seed = first; seeds.length < count; seed++) {
    if (wishes[seed % wishes.length]!.kind.includes(word)) seeds.push(seed);
  }
  return seeds;
}

/** The recipe of a seed: always the same one. */
export function recipeOf(seed: number): Recipe {
  const random = new Random(seed);
  const wish = wishes[seed % wishes.length]!;
  const features = new Features(wish, random);
  const below = features.has('backing') ? 1 + random.below(3) : 0;
  const layers: Layer[] = [];
  if (wish.format === 'vmdk') {
    const size = drawSize(random, 64 * KIB);
    for (let at = 0; at <= below; at++) layers.push(vmdkLayer(wish, features, random, size));
    return { seed, kind: wish.kind, layers };
  }
  for (let at = 0; at < below; at++) {
    const plain = new Features({ kind: '', format: 'vmdk', has: [] }, random);
    layers.push(at === 0 && chance(random, 3) ? rawLayer(random) : qcow2Layer(plain, random, at > 0));
  }
  layers.push(qcow2Layer(features, random, below > 0));
  return { seed, kind: wish.kind, layers };
}
