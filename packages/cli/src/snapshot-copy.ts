import { CowlabError, type Disk, type SnapshotInfo } from '@cowlab/core';
import { sizeIn } from './increment.ts';
import { copyDifferences, copyDisk, type CopyOptions } from './transfer.ts';

/*
 * Copying a disk with its snapshots into a new image. The target goes through the states of the source, oldest first, and
 * makes a snapshot of each; the present state is the last.
 *
 *   for each state:  go back to the snapshot that it grew from, where that is not the last one
 *                    → get its size → write what differs from there → make a snapshot of it, with its name and time
 *
 * What differs is asked of the source's metadata, and compared with the target besides: an allocation unit of the source
 * of which little has changed does not take a whole one of the target again. The first state is written as into any
 * new image.
 *
 * A target that keeps parents gets those of the source. A snapshot that grew from nothing can be made only where the disk stands on
 * none; where there are several, an empty snapshot that comes first is the place to go back to. It is deleted in the end, and
 * what grew from it has no parent then.
 */

/** The name of the empty snapshot; longer than those of others, where one has it. */
function rootName(snapshots: readonly SnapshotInfo[]): string {
  const names = new Set(snapshots.map(({ name }) => name));
  let name = 'cowlab: nothing';
  while (names.has(name)) name += '.';
  return name;
}

function refusal(file: string, field: string, problem: string): CowlabError {
  return new CowlabError('ERR_UNSUPPORTED', `${file}: ${problem}`, { file, field });
}

/** Says before anything is copied what the target could not take. */
export async function assertTakesSnapshots(source: Disk, target: Disk, name: string): Promise<void> {
  const { format, capabilities, image } = target;
  if (target.compression === 'only') {
    throw refusal(
      name,
      'snapshots',
      `this kind of ${format} image is written as a stream, and has no snapshots`,
    );
  }
  const snapshots = await source.snapshots.list();
  if (snapshots.length === 0) return;
  const { maxSnapshots, resize } = capabilities;
  if (image.snapshots === undefined) {
    const problem = image.withoutSnapshots?.problem ?? 'has no snapshots';
    throw refusal(name, 'snapshots', `${format} ${problem}`);
  }
  const needed = snapshots.length + (needsRoot(snapshots, target) ? 1 : 0);
  if (needed > maxSnapshots) {
    throw refusal(name, 'snapshots', `${format} has at most ${maxSnapshots} snapshots, not ${needed}`);
  }
  const sizes = [...snapshots.map(({ size }) => size), source.size].map((size) => sizeIn(target, size));
  const [first = 0] = sizes;
  const changes = sizes.filter((size, index) => size !== (sizes[index - 1] ?? first));
  if (changes.length > 0 && resize !== 'both') {
    const problem = `${format} disks keep their size, and the snapshots have several: ${first}, ${changes.join(', ')}`;
    throw refusal(name, 'resize', problem);
  }
}

function needsRoot(snapshots: readonly SnapshotInfo[], target: Disk): boolean {
  const roots = snapshots.filter(({ parent }) => parent === null);
  return target.capabilities.snapshotParents && roots.length > 1;
}

/** The size that the first state has. */
export async function firstSize(source: Disk): Promise<number> {
  const [oldest] = await source.snapshots.list();
  return oldest?.size ?? source.size;
}

/** Fills `target`, which is new and has the size of the first state. Rejects with `ERR_ABORTED`. */
export async function copyStates(source: Disk, target: Disk, options: CopyOptions): Promise<void> {
  const snapshots = await source.snapshots.list();
  const root = needsRoot(snapshots, target) ? rootName(snapshots) : undefined;
  const copy = new StateCopy(source, target, options, snapshots.length + 1, root);
  if (root !== undefined) await target.snapshots.create(root, { createdAt: new Date(0) });
  for (const snapshot of snapshots) await copy.snapshot(snapshot);
  await copy.present();
  if (root !== undefined) await target.snapshots.delete(root);
}

class StateCopy {
  readonly #source: Disk;
  readonly #target: Disk;
  readonly #options: CopyOptions;
  readonly #stateCount: number;
  readonly #root: string | undefined;
  /** Snapshots of the target, by the ids of those of the source that they equal. */
  readonly #made = new Map<string, string>();
  /** The source's snapshot whose contents the target has; undefined when it is empty. */
  #holds: string | undefined;
  #done = 0;

  constructor(
    source: Disk,
    target: Disk,
    options: CopyOptions,
    stateCount: number,
    root: string | undefined,
  ) {
    this.#source = source;
    this.#target = target;
    this.#options = options;
    this.#stateCount = stateCount;
    this.#root = root;
  }

  async snapshot(snapshot: SnapshotInfo): Promise<void> {
    await this.#standOn(snapshot);
    const state = await this.#source.snapshots.open(snapshot.id);
    try {
      await this.#becomes(state, snapshot.id);
    } finally {
      await state.close();
    }
    const { createdAt, name, id } = snapshot;
    this.#made.set(id, (await this.#target.snapshots.create(name, { createdAt })).id);
    this.#holds = id;
    this.#done += 1;
  }

  async present(): Promise<void> {
    await this.#becomes(this.#source, undefined);
  }

  /** The target goes to where the snapshot grew from, if that is known and elsewhere. */
  async #standOn({ parent }: SnapshotInfo): Promise<void> {
    if (parent === undefined || parent === (this.#holds ?? null)) return;
    const place = parent === null ? this.#root : this.#made.get(parent);
    if (place === undefined) return;
    await this.#target.snapshots.apply(place, this.#options.signal && { signal: this.#options.signal });
    this.#holds = parent ?? undefined;
  }

  async #becomes(state: Disk, id: string | undefined): Promise<void> {
    const [source, target, holds] = [this.#source, this.#target, this.#holds];
    const options = this.#share();
    const size = sizeIn(target, state.size);
    if (target.size !== size) await target.resize(size);
    if (holds === undefined) return copyDisk(state, target, options);
    const { signal } = this.#options;
    const changes = source.snapshots.diff(holds, id, signal && { signal });
    await copyDifferences(state, target, changes, options);
  }

  /** Of the work; all states count alike. */
  #share(): CopyOptions {
    const { onProgress } = this.#options;
    if (onProgress === undefined) return this.#options;
    return {
      ...this.#options,
      onProgress: ({ done, total }) =>
        onProgress({ done: this.#done * total + done, total: this.#stateCount * total }),
    };
  }
}
