import type { DiskExtent } from '@cowlab/core';
import { AllocationState } from './protocol.ts';

/*
 * What BLOCK_STATUS can tell about a disk. `base:allocation` is the protocol's own, `qemu:allocation-depth` is QEMU's:
 * 0 where no image of the chain has the bytes, 1 where the image itself has them, 2 its backing, and so on.
 */

export interface MetaContext {
  readonly id: number;
  readonly name: string;
  status(extent: DiskExtent): number;
}

const contexts: readonly MetaContext[] = [
  {
    id: 1,
    name: 'base:allocation',
    status: ({ kind }) => (kind === 'zero' ? AllocationState.hole | AllocationState.zero : 0),
  },
  {
    id: 2,
    name: 'qemu:allocation-depth',
    status: ({ allocated, depth }) => (allocated ? depth + 1 : 0),
  },
];

/** The contexts that a client selects; what nobody knows selects nothing. */
export function selectContexts(queries: readonly string[]): readonly MetaContext[] {
  return contexts.filter(({ name }) => queries.includes(name));
}

/** The contexts that a client asks about: all of them, some by name, or all of a namespace (`base:`). */
export function listContexts(queries: readonly string[]): readonly MetaContext[] {
  if (queries.length === 0) return contexts;
  return contexts.filter(({ name }) => {
    const namespace = name.slice(0, name.indexOf(':') + 1);
    return queries.includes(name) || queries.includes(namespace);
  });
}
