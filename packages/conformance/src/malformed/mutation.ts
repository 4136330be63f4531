import type { Field, FoundStructure } from '@cowlab/core';
import type { Random } from '../random.ts';
import type { Base, Files } from './base.ts';
import { editText, type TextEdit, textEdits } from './text-edit.ts';

/*
 * What is done to an image, as data: small enough to be kept in a corpus, and told in the words of the format, so that it
 * means the same after the layout has moved. A structure is named by its kind and its number among those: `L2 table#1`.
 */

export type Mutation =
  | {
      readonly kind: 'set';
      readonly structure: string;
      readonly field: string;
      /** A whole number, decimal; higher bits than the field has are dropped. */
      readonly value: string;
      /** The checksum is made right again, so that what lies behind it is reached. */
      readonly sealed: boolean;
    }
  | { readonly kind: 'swap'; readonly structure: string; readonly other: string }
  | {
      readonly kind: 'copy';
      readonly structure: string;
      readonly over: string;
      readonly sealed: boolean;
    }
  /** The bytes that lay in this place at an earlier time. */
  | { readonly kind: 'older'; readonly structure: string; readonly time: number }
  | { readonly kind: 'edit'; readonly structure: string; readonly line: number; readonly edit: TextEdit }
  | { readonly kind: 'cut'; readonly file: string; readonly length: number }
  | { readonly kind: 'flip'; readonly file: string; readonly offset: number; readonly bit: number }
  | { readonly kind: 'blank'; readonly file: string; readonly offset: number; readonly length: number }
  | {
      readonly kind: 'move';
      readonly file: string;
      readonly from: number;
      readonly to: number;
      readonly length: number;
    };

function nameOf(base: Base, structure: FoundStructure): string {
  const alike = base.structures.filter(({ kind }) => kind === structure.kind);
  return `${structure.kind}#${alike.indexOf(structure)}`;
}

function structureNamed(base: Base, name: string): FoundStructure | undefined {
  const at = name.lastIndexOf('#');
  return base.structures.filter(({ kind }) => kind === name.slice(0, at))[Number(name.slice(at + 1))];
}

/** The files with all mutations done; undefined when the base has nothing of what one of them names. */
export function mutate(base: Base, mutations: readonly Mutation[]): Map<string, Uint8Array> | undefined {
  const touched = new Set(mutations.flatMap((mutation) => filesOf(base, mutation)));
  const files = new Map(
    [...base.files].map(([name, bytes]) => [name, touched.has(name) ? bytes.slice() : bytes]),
  );
  return mutations.every((mutation) => apply(base, files, mutation)) ? files : undefined;
}

/** The files that a mutation changes. */
function filesOf(base: Base, mutation: Mutation): string[] {
  if ('file' in mutation) return [mutation.file];
  const names = [mutation.structure];
  if (mutation.kind === 'swap') names.push(mutation.other);
  if (mutation.kind === 'copy') names.push(mutation.over);
  return names.flatMap((name) => structureNamed(base, name)?.file ?? []);
}

function apply(base: Base, files: Map<string, Uint8Array>, mutation: Mutation): boolean {
  if ('file' in mutation) return applyToBytes(files, mutation);
  const structure = structureNamed(base, mutation.structure);
  const bytes = structure && partOf(files, structure);
  if (structure === undefined || bytes === undefined) return false;
  switch (mutation.kind) {
    case 'set': {
      const field = structure.fields[mutation.field];
      if (field === undefined || field.at + field.bytes > bytes.length) return false;
      writeField(bytes, field, structure.littleEndian, BigInt(mutation.value));
      if (mutation.sealed) structure.seal?.(bytes);
      return true;
    }
    case 'older': {
      const before = base.earlier[mutation.time];
      const old = before && partOf(before, structure);
      if (old === undefined) return false;
      bytes.set(old);
      return true;
    }
    case 'edit': {
      const whole = files.get(structure.file) as Uint8Array;
      files.set(structure.file, editText(whole, structure, mutation.line, mutation.edit));
      return true;
    }
    default:
      return applyToTwo(base, files, structure, bytes, mutation);
  }
}

function applyToTwo(
  base: Base,
  files: Map<string, Uint8Array>,
  structure: FoundStructure,
  bytes: Uint8Array,
  mutation: Extract<Mutation, { kind: 'swap' | 'copy' }>,
): boolean {
  const other = structureNamed(base, mutation.kind === 'swap' ? mutation.other : mutation.over);
  const target = other && partOf(files, other);
  if (other === undefined || target === undefined || other === structure) return false;
  const [first, second] = [bytes.slice(), target.slice()];
  const length = Math.min(first.length, second.length);
  target.set(first.subarray(0, length));
  if (mutation.kind === 'swap') bytes.set(second.subarray(0, length));
  else if (mutation.sealed) other.seal?.(target);
  return true;
}

function applyToBytes(
  files: Map<string, Uint8Array>,
  mutation: Extract<Mutation, { readonly file: string }>,
): boolean {
  const bytes = files.get(mutation.file);
  if (bytes === undefined) return false;
  switch (mutation.kind) {
    case 'cut':
      files.set(mutation.file, bytes.slice(0, mutation.length));
      return true;
    case 'flip':
      if (mutation.offset >= bytes.length) return false;
      bytes[mutation.offset] = (bytes[mutation.offset] as number) ^ (1 << mutation.bit);
      return true;
    case 'blank':
      bytes.fill(0, mutation.offset, mutation.offset + mutation.length);
      return true;
    case 'move':
      bytes.copyWithin(mutation.to, mutation.from, mutation.from + mutation.length);
      return true;
  }
}

/** The bytes of a structure, in place; undefined where the file ends before it. */
function partOf(files: Files, { file, offset, bytes }: FoundStructure): Uint8Array | undefined {
  const whole = files.get(file);
  return whole === undefined || offset + bytes > whole.length
    ? undefined
    : whole.subarray(offset, offset + bytes);
}

function readField(bytes: Uint8Array, { at, bytes: width }: Field, littleEndian: boolean): bigint {
  let value = 0n;
  for (let index = 0; index < width; index += 1) {
    const byte = bytes[at + (littleEndian ? width - 1 - index : index)] ?? 0;
    value = (value << 8n) | BigInt(byte);
  }
  return value;
}

function writeField(
  bytes: Uint8Array,
  { at, bytes: width }: Field,
  littleEndian: boolean,
  value: bigint,
): void {
  let rest = value;
  for (let index = 0; index < width; index += 1) {
    bytes[at + (littleEndian ? index : width - 1 - index)] = Number(rest & 0xffn);
    rest >>= 8n;
  }
}

/** Chooses mutations; the same random numbers make the same ones. */
export class Mutator {
  readonly #base: Base;
  readonly #random: Random;

  constructor(base: Base, random: Random) {
    this.#base = base;
    this.#random = random;
  }

  /** Mostly one mutation; sometimes two, since one may cover what another would show. */
  choose(): Mutation[] {
    const mutations = [this.#one()];
    while (this.#random.below(5) === 0) mutations.push(this.#one());
    return mutations;
  }

  #one(): Mutation {
    if (this.#base.structures.length === 0) return this.#bytes();
    const choice = this.#random.below(20);
    if (choice < 11) return this.#inStructure();
    if (choice < 13) return this.#twoStructures();
    if (choice < 15) return this.#older();
    if (choice < 16) return this.#cut();
    return this.#bytes();
  }

  /** Kinds are equally likely, however many there are of each. */
  #structure(): FoundStructure {
    const kinds = [...new Set(this.#base.structures.map(({ kind }) => kind))];
    const kind = this.#random.pick(kinds);
    return this.#random.pick(this.#base.structures.filter((one) => one.kind === kind));
  }

  #inStructure(): Mutation {
    const structure = this.#structure();
    const name = nameOf(this.#base, structure);
    if (structure.isText === true) {
      return {
        kind: 'edit',
        structure: name,
        line: this.#random.below(30),
        edit: this.#random.pick(textEdits),
      };
    }
    const field = this.#field(structure);
    const sealed = this.#random.below(4) > 0;
    return { kind: 'set', structure: name, field, value: String(this.#value(structure, field)), sealed };
  }

  /** A field; of long tables of entries rather one that is in use. */
  #field(structure: FoundStructure): string {
    const names = Object.keys(structure.fields);
    const bytes = partOf(this.#base.files, structure);
    if (names.length < 40 || bytes === undefined || this.#random.below(4) === 0)
      return this.#random.pick(names);
    const used = names.filter(
      (name) => readField(bytes, structure.fields[name] as Field, structure.littleEndian) !== 0n,
    );
    return this.#random.pick(used.length > 0 ? used : names);
  }

  #value(structure: FoundStructure, name: string): bigint {
    const field = structure.fields[name] as Field;
    const bytes = partOf(this.#base.files, structure) ?? new Uint8Array(field.at + field.bytes);
    const old = readField(bytes, field, structure.littleEndian);
    const bits = BigInt(field.bytes * 8);
    const flags = bits === 64n ? old & 0xff00_0000_0000_0000n : 0n;
    const length = BigInt(this.#base.files.get(structure.file)?.length ?? 0);
    const other = this.#random.pick(this.#base.structures);
    const edges = [
      0n,
      1n,
      2n,
      (1n << bits) - 1n,
      (1n << bits) - 2n,
      1n << (bits - 1n),
      (1n << (bits - 1n)) - 1n,
    ];
    const near = [
      old + 1n,
      old - 1n,
      old * 2n,
      old / 2n,
      old ^ (1n << BigInt(this.#random.below(Number(bits)))),
    ];
    const places = [BigInt(structure.offset), BigInt(other.offset), length, length + 65_536n, 1n << 40n];
    const units = [1n, 16n, 512n, 4096n, 65_536n];
    const offset = this.#random.pick(places) / this.#random.pick(units);
    const alike = this.#random.pick(Object.values(structure.fields));
    const sibling = readField(bytes, alike, structure.littleEndian);
    const small = BigInt(this.#random.below(1 << this.#random.below(20)));
    return this.#random.pick([
      this.#random.pick(edges),
      this.#random.pick(near),
      flags | offset,
      flags | BigInt(this.#random.pick([structure, other]).offset),
      sibling,
      small,
    ]);
  }

  #twoStructures(): Mutation {
    const structure = this.#structure();
    const alike = this.#base.structures.filter(({ kind }) => kind === structure.kind);
    const name = nameOf(this.#base, structure);
    const other = nameOf(this.#base, this.#random.pick(alike));
    if (this.#random.below(2) === 0) return { kind: 'swap', structure: name, other };
    return { kind: 'copy', structure: name, over: other, sealed: this.#random.below(2) === 0 };
  }

  #older(): Mutation {
    const time = this.#random.below(Math.max(1, this.#base.earlier.length));
    return { kind: 'older', structure: nameOf(this.#base, this.#structure()), time };
  }

  /** At a structure, in it, or behind it. */
  #cut(): Mutation {
    const { file, offset, bytes } = this.#structure();
    const length = offset + this.#random.pick([0, 1, Math.floor(bytes / 2), bytes - 1, bytes]);
    return { kind: 'cut', file, length };
  }

  #bytes(): Mutation {
    const file = this.#random.pick([...this.#base.files.keys()]);
    const { length } = this.#base.files.get(file) as Uint8Array;
    const offset = this.#offset(file, length);
    switch (this.#random.below(5)) {
      case 0:
        return { kind: 'cut', file, length: this.#random.below(length + 1) };
      case 1:
        return { kind: 'blank', file, offset, length: this.#random.pick([1, 4, 8, 512, 4096]) };
      case 2: {
        const part = this.#random.pick([8, 512, 4096]);
        const align = (at: number): number => at - (at % part);
        return {
          kind: 'move',
          file,
          from: align(this.#offset(file, length)),
          to: align(offset),
          length: part,
        };
      }
      default:
        return { kind: 'flip', file, offset, bit: this.#random.below(8) };
    }
  }

  /** Anywhere, and every second time inside of a structure, or at the front where none is known. */
  #offset(file: string, length: number): number {
    if (this.#base.structures.length === 0)
      return this.#random.below(Math.max(1, this.#random.pick([length, Math.min(length, 4096)])));
    const { file: its, offset, bytes } = this.#structure();
    if (its === file && this.#random.below(2) === 0) return offset + this.#random.below(bytes);
    return this.#random.below(Math.max(1, length));
  }
}
