import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pattern, Random, ReferenceModel } from '@cowlab/conformance';
import { qemuImg, qemuIo } from './qemu.ts';
import type { Layer, Recipe, Step, Texture } from './recipe.ts';

/*
 * Makes an image by its recipe, with QEMU's tools alone, and knows what it has to hold: every step is done to plain bytes
 * as well. Steps that write go to one qemu-io together, as long as nothing else comes between. Compressed writes begin a
 * new one: QEMU 7.2 goes on behind the last compressed byte although that cluster was freed and is another's by now.
 */

export interface Made {
  readonly folder: string;
  readonly file: string;
  readonly format: 'qcow2' | 'vmdk';
  /** What the image and its snapshots hold. */
  readonly model: ReferenceModel;
}

const fileNames: Readonly<Record<Layer['format'], string>> = { raw: 'raw', qcow2: 'qcow2', vmdk: 'vmdk' };

function fileOf(recipe: Recipe, at: number): string {
  const name = at === recipe.layers.length - 1 ? 'top' : `layer${at}`;
  return `${name}.${fileNames[recipe.layers[at]!.format]}`;
}

function bytesOf(texture: Texture, tag: number, length: number): Uint8Array {
  if (texture === 'dense') return pattern(tag, length);
  const bytes = new Uint8Array(length);
  if (texture === 'repetitive') {
    const piece = pattern(tag, 64);
    for (let at = 0; at < length; at++) bytes[at] = piece[at % 64]!;
    return bytes;
  }
  const random = new Random(tag);
  for (let at = 0; at < length; at++) bytes[at] = random.below(256);
  return bytes;
}

/** One layer while it is being made. */
class LayerMaker {
  readonly #folder: string;
  readonly #file: string;
  readonly #layer: Layer;
  readonly model: ReferenceModel;
  readonly #firstTag: number;
  #commands: string[] = [];
  #sources: string[] = [];

  constructor(folder: string, file: string, layer: Layer, below: Uint8Array | undefined, firstTag: number) {
    this.#folder = folder;
    this.#file = file;
    this.#layer = layer;
    this.#firstTag = firstTag;
    this.model = new ReferenceModel(layer.size, Number(layer.options.cluster_size ?? 65_536), below);
  }

  async run(): Promise<void> {
    for (const [at, step] of this.#layer.steps.entries()) await this.#step(step, this.#firstTag + at);
    await this.#flush();
  }

  async #step(step: Step, tag: number): Promise<void> {
    switch (step.do) {
      case 'write':
      case 'compressed': {
        if (step.do === 'compressed' && !this.#commands.every((each) => each.startsWith('write -c'))) {
          await this.#flush();
        }
        const source = `source-${tag}`;
        const bytes = bytesOf(step.texture, tag, step.length);
        await writeFile(join(this.#folder, source), bytes);
        this.#sources.push(source);
        this.#commands.push(
          `write ${step.do === 'write' ? '' : '-c '}-s ${source} ${step.at} ${step.length}`,
        );
        this.model.write(step.at, bytes);
        return;
      }
      case 'zeroes':
        this.#commands.push(`write -z ${step.at} ${step.length}`);
        this.model.writeZeroes(step.at, step.length);
        return;
      case 'discard':
        this.#commands.push(`discard ${step.at} ${step.length}`);
        this.model.discard(step.at, step.length);
        return;
      default:
        await this.#flush();
        await this.#command(step);
    }
  }

  async #command(step: Exclude<Step, { do: 'write' | 'compressed' | 'zeroes' | 'discard' }>): Promise<void> {
    const folder = this.#folder;
    switch (step.do) {
      case 'snapshot':
        await qemuImg(folder, 'snapshot', '-c', step.name, this.#file);
        return this.model.createSnapshot(step.name);
      case 'apply':
        await qemuImg(folder, 'snapshot', '-a', step.name, this.#file);
        return this.model.applySnapshot(step.name);
      case 'delete':
        await qemuImg(folder, 'snapshot', '-d', step.name, this.#file);
        return this.model.deleteSnapshot(step.name);
      case 'bitmap':
        return void (await qemuImg(folder, 'bitmap', '--add', this.#file, step.name));
      case 'resize': {
        const shrinks = step.size < this.model.size ? ['--shrink'] : [];
        await qemuImg(
          folder,
          'resize',
          '-q',
          '-f',
          this.#layer.format,
          ...shrinks,
          this.#file,
          String(step.size),
        );
        return this.model.resize(step.size);
      }
    }
  }

  async #flush(): Promise<void> {
    if (this.#commands.length === 0) return;
    await qemuIo(this.#folder, this.#layer.format, this.#file, this.#commands);
    for (const source of this.#sources) await rm(join(this.#folder, source));
    this.#commands = [];
    this.#sources = [];
  }
}

function createArguments(recipe: Recipe, at: number): string[] {
  const { format, size, options } = recipe.layers[at]!;
  const given = Object.entries(options).map(([name, value]) => `${name}=${value}`);
  const below = recipe.layers[at - 1];
  return [
    'create',
    '-q',
    '-f',
    format,
    ...(given.length > 0 ? ['-o', given.join(',')] : []),
    ...(below === undefined ? [] : ['-b', fileOf(recipe, at - 1), '-F', below.format]),
    fileOf(recipe, at),
    String(size),
  ];
}

/** A streamOptimized image is made in one go, from what another one holds. */
async function convertToStream(folder: string, recipe: Recipe, layer: Layer): Promise<ReferenceModel> {
  const raw: Layer = { ...layer, format: 'raw', options: {} };
  await qemuImg(folder, 'create', '-q', '-f', 'raw', 'source.raw', String(layer.size));
  const maker = new LayerMaker(folder, 'source.raw', raw, undefined, 1);
  await maker.run();
  const given = Object.entries(layer.options).map(([name, value]) => `${name}=${value}`);
  const options = ['-f', 'raw', '-O', 'vmdk', '-o', given.join(',')];
  await qemuImg(folder, 'convert', ...options, 'source.raw', fileOf(recipe, 0));
  await rm(join(folder, 'source.raw'));
  return maker.model;
}

/** Makes the image and everything under it in an empty folder. */
export async function makeImage(folder: string, recipe: Recipe): Promise<Made> {
  const top = recipe.layers.length - 1;
  const layer = recipe.layers[top]!;
  if (layer.format === 'raw') throw new TypeError('the image itself is never raw');
  const made = { folder, file: fileOf(recipe, top), format: layer.format };
  if (layer.options.subformat === 'streamOptimized') {
    return { ...made, model: await convertToStream(folder, recipe, layer) };
  }
  let model: ReferenceModel | undefined;
  let tag = 1;
  for (const [at, each] of recipe.layers.entries()) {
    await qemuImg(folder, ...createArguments(recipe, at));
    const maker = new LayerMaker(folder, fileOf(recipe, at), each, model?.bytes, tag);
    await maker.run();
    ({ model } = maker);
    tag += each.steps.length;
  }
  return { ...made, model: model! };
}
