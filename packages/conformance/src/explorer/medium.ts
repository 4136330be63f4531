import type { ContentChange, CrashLog, Entry, FileId, NameChange } from './crash-folder.ts';
import { PageFile, PageFolder } from './page-folder.ts';

/*
 * What is durable, and what is on its way:
 *
 *     contents   a change is durable after a flush of its file; before, any of its 512-byte sectors may be there
 *     length     a new length is there or not; sectors past the end make the file longer
 *     names      create, remove, rename and link are durable, in order, after a flush of the folder; before, any
 *                number of the first of them may be there
 *     discard    the range may hold anything
 *
 * The sectors in flight, of all calls of all files in the order of the calls, are the units that a choice keeps
 * or loses.
 */

const sectorBytes = 512;

/** A call on its way: `units` of its own from `first` on. */
export interface Call {
  readonly first: number;
  readonly units: number;
}

/** Which of the units in flight, and how many of the name changes, are there after a crash. */
export interface Choice {
  readonly names: number;
  /** One for each unit. */
  readonly kept: readonly boolean[];
}

function applyName(names: Map<string, FileId>, { set, unset }: NameChange): void {
  if (unset !== undefined) names.delete(unset);
  if (set !== undefined) names.set(set.name, set.file);
}

/** How many sectors a change touches; a new length counts as one. */
function unitsOf({ offset, bytes }: ContentChange): number {
  if (bytes === undefined) return 1;
  return Math.ceil((offset + bytes.length) / sectorBytes) - Math.floor(offset / sectorBytes);
}

/** The sectors of a change that were kept; neighbours in one piece. */
function applyContent(
  file: PageFile,
  { offset, bytes }: ContentChange,
  kept: (unit: number) => boolean,
): void {
  if (bytes === undefined) {
    if (kept(0)) file.resize(offset);
    return;
  }
  const start = Math.floor(offset / sectorBytes) * sectorBytes;
  const end = offset + bytes.length;
  for (let unit = 0, from = -1; start + (unit + (from < 0 ? 0 : -1)) * sectorBytes < end; unit += 1) {
    const at = Math.min(end, Math.max(offset, start + unit * sectorBytes));
    const isKept = at < end && kept(unit);
    if (isKept && from < 0) from = at;
    if (!isKept && from >= 0) {
      file.write(from, bytes.subarray(from - offset, at - offset));
      from = -1;
    }
  }
}

export class Medium {
  readonly #durable = new Map<FileId, PageFile>();
  readonly #names: Map<string, FileId>;
  #inFlight: ContentChange[] = [];
  #nameChanges: NameChange[] = [];

  constructor({ files, names }: CrashLog) {
    for (const [id, file] of files) this.#durable.set(id, file.copy());
    this.#names = new Map(names);
  }

  get pendingNames(): number {
    return this.#nameChanges.length;
  }

  /** The calls in flight, in their order. */
  get calls(): Call[] {
    let first = 0;
    return this.#inFlight.map((change) => {
      const call = { first, units: unitsOf(change) };
      first += call.units;
      return call;
    });
  }

  happen(entry: Entry): void {
    if (entry.kind === 'content') this.#inFlight.push(entry);
    else if (entry.kind === 'name') this.#nameChanges.push(entry);
    else if (entry.kind === 'flush') this.#flush(entry.file);
    else {
      for (const change of this.#nameChanges) applyName(this.#names, change);
      this.#nameChanges = [];
    }
  }

  /** The folder after a power loss now. */
  survive({ names, kept }: Choice): PageFolder {
    const present = new Map(this.#names);
    for (const change of this.#nameChanges.slice(0, names)) applyName(present, change);
    const files = new Map<FileId, PageFile>();
    for (const id of present.values()) {
      if (!files.has(id)) files.set(id, this.#durable.get(id)?.copy() ?? new PageFile());
    }
    for (const [index, { first }] of this.calls.entries()) {
      const change = this.#inFlight[index]!;
      const file = files.get(change.file);
      if (file !== undefined) applyContent(file, change, (unit) => kept[first + unit] === true);
    }
    return new PageFolder(new Map([...present].map(([name, id]) => [name, files.get(id)!])));
  }

  #flush(id: FileId): void {
    const file = this.#durable.get(id) ?? new PageFile();
    this.#durable.set(id, file);
    for (const change of this.#inFlight) if (change.file === id) applyContent(file, change, () => true);
    this.#inFlight = this.#inFlight.filter((change) => change.file !== id);
  }
}
