import type { Capabilities } from '@cowlab/core';
import type { Random } from '../random.ts';

/** What a victim does to its disk, one after the other; what it says before each. */
export type Step =
  | { readonly kind: 'write'; readonly offset: number; readonly length: number; readonly tag: number }
  | { readonly kind: 'writeZeroes' | 'discard'; readonly offset: number; readonly length: number }
  | { readonly kind: 'flush' | 'reopen' }
  | { readonly kind: 'create' | 'delete' | 'apply'; readonly name: string }
  | { readonly kind: 'rename'; readonly name: string; readonly newName: string }
  | { readonly kind: 'resize'; readonly size: number };

export type StepKind = Step['kind'];

/** What a choice of the next step depends on. */
export interface VictimState {
  readonly random: Random;
  readonly capabilities: Capabilities;
  /** Bytes that the victim counts in: whole allocation units. */
  readonly stride: number;
  readonly size: number;
  readonly snapshots: readonly string[];
  /** Different each time. */
  readonly count: number;
}

const sectorBytes = 512;
const mostSnapshots = 8;
/** Strides that a resize leaves, least and most. */
const leastStrides = 32;
const mostStrides = 96;

type Weights = Readonly<Partial<Record<StepKind, number>>>;

interface KillWorkload {
  readonly weights: Weights;
  readonly applies: (capabilities: Capabilities) => boolean;
}

export const killWorkloads: Readonly<Record<string, KillWorkload>> = {
  writes: { weights: { write: 12, flush: 4, reopen: 1 }, applies: ({ write }) => write },
  discards: {
    weights: { write: 8, writeZeroes: 3, discard: 3, flush: 3, reopen: 1 },
    applies: ({ write }) => write,
  },
  snapshots: {
    weights: { write: 8, discard: 1, flush: 2, create: 4, delete: 3, apply: 2, rename: 1, reopen: 1 },
    applies: ({ snapshots }) => snapshots !== 'none',
  },
  resizes: {
    weights: { write: 6, discard: 1, flush: 2, resize: 3, reopen: 1 },
    applies: ({ resize }) => resize === 'both',
  },
};

function isPossible(kind: StepKind, { capabilities, snapshots }: VictimState): boolean {
  if (kind === 'create') return snapshots.length < Math.min(mostSnapshots, capabilities.maxSnapshots);
  if (kind === 'rename') return capabilities.renameSnapshots && snapshots.length > 0;
  return (kind !== 'delete' && kind !== 'apply') || snapshots.length > 0;
}

function chooseKind(weights: Weights, state: VictimState): StepKind {
  const possible = (Object.entries(weights) as [StepKind, number][]).filter(([kind]) =>
    isPossible(kind, state),
  );
  return state.random.pick(possible.flatMap(([kind, weight]) => Array.from({ length: weight }, () => kind)));
}

/** The next thing to do. */
export function chooseStep(workload: string, state: VictimState): Step {
  const { random, stride, size, snapshots, count } = state;
  const kind = chooseKind(killWorkloads[workload]!.weights, state);
  switch (kind) {
    case 'write': {
      const length = (1 + random.below(random.pick([4, 40]))) * sectorBytes;
      const offset = random.below(Math.floor((size - length) / sectorBytes)) * sectorBytes;
      return { kind, offset, length, tag: count };
    }
    case 'writeZeroes':
    case 'discard': {
      const strides = Math.floor(size / stride);
      const length = (1 + random.below(Math.min(8, strides))) * stride;
      return { kind, offset: random.below(strides - length / stride + 1) * stride, length };
    }
    case 'create':
      return { kind, name: `s${count}` };
    case 'delete':
    case 'apply':
      return { kind, name: random.pick(snapshots) };
    case 'rename':
      return { kind, name: random.pick(snapshots), newName: `r${count}` };
    case 'resize':
      return { kind, size: (leastStrides + random.below(mostStrides - leastStrides + 1)) * stride };
    default:
      return { kind };
  }
}
