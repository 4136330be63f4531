import { type Disk, prefetch } from '@cowlab/core';
import { compressible, pattern } from '../random.ts';
import { ReferenceModel } from '../reference-model.ts';

/*
 * What a workload does to a disk, as data, with its meaning twice: what is called, and what the disk and its
 * snapshots are afterwards.
 */

/** What changes bytes of the disk. */
type Change =
  | { readonly do: 'write'; readonly offset: number; readonly length: number; readonly tag: number }
  | {
      readonly do: 'writeCompressed';
      readonly offset: number;
      readonly length: number;
      readonly tag: number;
    }
  | { readonly do: 'writeZeroes' | 'discard'; readonly offset: number; readonly length: number }
  | { readonly do: 'resize'; readonly size: number };

export type Step =
  | Change
  | { readonly do: 'read' | 'populate'; readonly offset: number; readonly length: number }
  | { readonly do: 'flush' | 'check' | 'prefetch' | 'release' | 'openSnapshots' }
  | { readonly do: 'create' | 'delete' | 'apply'; readonly name: string }
  | { readonly do: 'rename'; readonly name: string; readonly to: string };

/** What a disk holds; never changed, so that parts are shared. */
export interface DiskState {
  readonly bytes: Uint8Array;
  readonly snapshots: ReadonlyMap<string, Uint8Array>;
}

/** Steps that have happened wholly or not at all, whatever fails. */
const atomic: ReadonlySet<Step['do']> = new Set(['create', 'delete', 'apply', 'rename', 'resize', 'release']);

export function isAtomic(step: Step): boolean {
  return atomic.has(step.do);
}

/** Does the step. */
export async function perform(disk: Disk, step: Step): Promise<void> {
  switch (step.do) {
    case 'write':
      return disk.write(step.offset, pattern(step.tag, step.length));
    case 'writeCompressed':
      await disk.writeCompressed(step.offset, compressible(step.tag, step.length, disk.unitBytes));
      return;
    case 'writeZeroes':
      return disk.writeZeroes(step.offset, step.length);
    case 'discard':
      return disk.discard(step.offset, step.length);
    case 'read':
      return disk.read(step.offset, new Uint8Array(step.length));
    case 'populate':
      await disk.populate(step.offset, step.length);
      return;
    case 'flush':
      return disk.flush();
    case 'check':
      await disk.check();
      return;
    case 'prefetch':
      await prefetch(disk, { throttleMaxMs: 0, slotCount: 1, slotBytes: 16_384, flushBytes: 32_768 });
      return;
    case 'release':
      return disk.releaseBacking();
    case 'openSnapshots':
      return readSnapshots(disk);
    case 'create':
      await disk.snapshots.create(step.name);
      return;
    case 'delete':
      return disk.snapshots.delete(step.name);
    case 'apply':
      return disk.snapshots.apply(step.name);
    case 'rename':
      return disk.snapshots.rename(step.name, step.to);
    case 'resize':
      return disk.resize(step.size);
  }
}

async function readSnapshots(disk: Disk): Promise<void> {
  for (const { id } of await disk.snapshots.list()) {
    const snapshot = await disk.snapshots.open(id);
    try {
      await snapshot.read(0, new Uint8Array(snapshot.size));
    } finally {
      await snapshot.close();
    }
  }
}

/** What the disk is after the step; the same state where the step changes nothing, or has happened already. */
export function after(state: DiskState, step: Step, unitBytes: number): DiskState {
  const { bytes, snapshots } = state;
  switch (step.do) {
    case 'write':
    case 'writeCompressed':
    case 'writeZeroes':
    case 'discard':
    case 'resize':
      return { bytes: changed(bytes, step, unitBytes), snapshots };
    case 'create':
      return snapshots.has(step.name)
        ? state
        : { bytes, snapshots: new Map([...snapshots, [step.name, bytes]]) };
    case 'delete':
      return { bytes, snapshots: new Map([...snapshots].filter(([name]) => name !== step.name)) };
    case 'apply':
      return { bytes: snapshots.get(step.name) ?? bytes, snapshots };
    case 'rename': {
      const names = [...snapshots].map(
        ([name, kept]) => [name === step.name ? step.to : name, kept] as const,
      );
      return { bytes, snapshots: new Map(names) };
    }
    default:
      return state;
  }
}

function changed(bytes: Uint8Array, step: Change, unitBytes: number): Uint8Array {
  const model = new ReferenceModel(bytes.length, unitBytes, bytes);
  if (step.do === 'resize') model.resize(step.size);
  // Where a resize has not happened, a later step may lie outside.
  else if (step.offset + step.length > bytes.length) return bytes;
  else if (step.do === 'write') model.write(step.offset, pattern(step.tag, step.length));
  else if (step.do === 'writeCompressed')
    model.write(step.offset, compressible(step.tag, step.length, unitBytes));
  else model[step.do](step.offset, step.length);
  return model.bytes;
}
