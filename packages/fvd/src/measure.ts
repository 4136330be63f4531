import { type MeasureRequest, type Measurement, touchedUnits } from '@cowlab/core';
import { type Geometry, LOG_ALIGN, pageBytesAtMost, rootBytes, SECTOR_BYTES } from './layout.ts';

/*
 * How large the file of a new image gets that is written once, and closed: whole chunks, so many as the superblocks, the
 * journal, the data, and the log of the one publication take. A chunk of the disk that has any data takes a chunk of the
 * file. In the table it is one item when it is full, else it may be split as finely as it has blocks: which of them
 * turn out to be zeros is not known before they are read.
 */

/** The chunks that the first state of an image takes, and where its log goes on. */
export interface FirstState {
  readonly geometry: Geometry;
  readonly hostChunks: number;
  readonly logOffset: number;
}

export async function measureImage(first: FirstState, request: MeasureRequest): Promise<Measurement> {
  const { geometry } = first;
  const { size, options, runs } = request;
  const chunks = Math.ceil(size / geometry.chunkBytes);
  const full = new Estimate(first, size);
  for (let chunk = 0; chunk < chunks; chunk++) full.add(chunk, geometry.blocksPerChunk);
  const fullBytes = full.finish();
  if (options['preallocation'] === 'metadata') {
    return { requiredBytes: fullBytes, fullyAllocatedBytes: fullBytes };
  }
  const required = new Estimate(first, size);
  for await (const run of touchedUnits(runs, geometry.blockBytes)) {
    for (let at = run.offset; at < run.offset + run.length; ) {
      const chunk = Math.floor(at / geometry.blocksPerChunk);
      const end = Math.min(run.offset + run.length, (chunk + 1) * geometry.blocksPerChunk);
      required.add(chunk, end - at);
      at = end;
    }
  }
  return { requiredBytes: required.finish(), fullyAllocatedBytes: fullBytes };
}

/** Adds up chunks in rising order, and lays out the log as the publication will. */
class Estimate {
  readonly #first: FirstState;
  readonly #size: number;
  #dataChunks = 0;
  #logChunks = 0;
  #logEnd: number;
  #chunk = -1;
  #blocks = 0;
  #page = 0;
  /** Of the items of the page so far: chunks that have any, and runs of those that are split. */
  #pageChunks = 0;
  #pageRuns = 0;

  constructor(first: FirstState, size: number) {
    this.#first = first;
    this.#size = size;
    this.#logEnd = Math.ceil(first.logOffset / SECTOR_BYTES) * SECTOR_BYTES;
  }

  add(chunk: number, blocks: number): void {
    if (chunk !== this.#chunk) this.#nextChunk(chunk);
    this.#blocks += blocks;
  }

  finish(): number {
    this.#nextChunk(-1);
    this.#placePage();
    const { geometry, hostChunks } = this.#first;
    this.#place(rootBytes(geometry, this.#size));
    return (hostChunks + this.#dataChunks + this.#logChunks) * geometry.chunkBytes;
  }

  #nextChunk(chunk: number): void {
    const { blocksPerChunk, pageChunks } = this.#first.geometry;
    if (this.#chunk >= 0) {
      this.#dataChunks += 1;
      this.#pageChunks += 1;
      this.#pageRuns += Math.min(blocksPerChunk, 2 * this.#blocks + 1);
    }
    this.#blocks = 0;
    this.#chunk = chunk;
    const page = Math.floor(chunk / pageChunks);
    if (chunk < 0 || page === this.#page) return;
    this.#placePage();
    this.#page = page;
  }

  #placePage(): void {
    if (this.#pageChunks > 0) this.#place(pageBytesAtMost(this.#pageChunks, this.#pageRuns));
    this.#pageChunks = 0;
    this.#pageRuns = 0;
  }

  /** A page or a root lies in one chunk, where it fits one. */
  #place(bytes: number): void {
    const { chunkBytes } = this.#first.geometry;
    const length = Math.ceil(bytes / LOG_ALIGN) * LOG_ALIGN;
    const room = Math.ceil(this.#logEnd / chunkBytes) * chunkBytes - this.#logEnd;
    if (room < length) {
      const taken = Math.ceil(length / chunkBytes);
      this.#logChunks += taken;
      this.#logEnd = 0;
    }
    this.#logEnd += length;
  }
}
