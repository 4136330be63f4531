import type { Capabilities } from '@cowlab/core';
import type { Lab } from '../lab.ts';
import { compresses, hasSnapshots } from '../subject.ts';
import type { Step } from './steps.ts';

/*
 * What disks are doing when something fails: everything that orders its changes in a way of its own. `prepare` brings
 * an image into the state before; `act` is struck, or opening the image, or closing it.
 */

export interface Workload {
  readonly name: string;
  readonly when?: (capabilities: Capabilities) => boolean;
  /** Size of the disk in strides; 8 when left out. */
  readonly strides?: number;
  /** The image lies over a backing. */
  readonly overBase?: boolean;
  /** Reads copy, and keep to themselves when that fails. */
  readonly copyOnRead?: boolean;
  /** The image is left as it is at the end of `prepare`, without a close. */
  readonly crashed?: boolean;
  /** After a failure at a bad moment nobody knows which of two states is durable: check may find what it may after a power loss. */
  readonly switches?: boolean;
  /** What is struck; the steps when left out. */
  readonly struck?: 'open' | 'close';
  prepare(lab: Lab): readonly Step[];
  act(lab: Lab): readonly Step[];
}

const write = (offset: number, length: number, tag: number): Step => ({ do: 'write', offset, length, tag });
const writeCompressed = (offset: number, length: number, tag: number): Step => ({
  do: 'writeCompressed',
  offset,
  length,
  tag,
});
const writeZeroes = (offset: number, length: number): Step => ({ do: 'writeZeroes', offset, length });
const discard = (offset: number, length: number): Step => ({ do: 'discard', offset, length });
const read = (offset: number, length: number): Step => ({ do: 'read', offset, length });
const populate = (offset: number, length: number): Step => ({ do: 'populate', offset, length });
const create = (name: string): Step => ({ do: 'create', name });
const flush: Step = { do: 'flush' };

const chains = ({ snapshots }: Capabilities): boolean => snapshots === 'chain';
const resizes = ({ resize }: Capabilities): boolean => resize !== 'none';
const shrinks = ({ resize }: Capabilities): boolean => resize === 'both';
const hasBacking = ({ backing }: Capabilities): boolean => backing;

/** Three snapshots, each of which has something of its own, and a disk that has, too. */
function history({ stride }: Lab): Step[] {
  return [
    write(0, 5 * stride, 1),
    create('first'),
    write(stride, 2 * stride, 2),
    create('middle'),
    write(2 * stride + 512, stride, 3),
    discard(4 * stride, stride),
    create('last'),
    write(3 * stride, 512, 4),
    flush,
  ];
}

function deleting(name: string): Workload {
  return {
    name: `delete of the ${name} of three snapshots`,
    when: hasSnapshots,
    prepare: history,
    act: ({ stride }) => [{ do: 'delete', name }, write(stride, 1024, 11), flush],
  };
}

/** So many flushes that a journal of 64 KiB is nearly full, and more of them. */
const flushesBefore = 122;
const flushesStruck = 9;

function flushes({ stride }: Lab, first: number, count: number): Step[] {
  return Array.from({ length: count }, (_, index) => [
    write((first + index) * stride, 512, first + index),
    flush,
  ]).flat();
}

export const workloads: readonly Workload[] = [
  {
    name: 'allocating writes',
    prepare: () => [],
    act: ({ stride }) => [
      write(0, 2 * stride, 1),
      write(3 * stride + 512, 1024, 2),
      flush,
      write(5 * stride - 1000, stride, 3),
      flush,
    ],
  },
  {
    name: 'overwrites',
    prepare: ({ stride }) => [write(0, 6 * stride, 1), flush],
    act: ({ stride }) => [
      write(512, stride, 2),
      write(2 * stride + 100, 50, 3),
      flush,
      writeZeroes(3 * stride + 10, stride),
      flush,
    ],
  },
  {
    name: 'compressed writes',
    when: compresses,
    prepare: ({ stride }) => [writeCompressed(0, 3 * stride, 1), flush],
    act: ({ stride }) => [
      writeCompressed(2 * stride, 4 * stride, 2),
      write(stride + 512, 512, 3),
      flush,
      writeCompressed(0, 2 * stride, 4),
      discard(2 * stride, stride),
      flush,
      writeCompressed(stride, 3 * stride, 5),
      flush,
    ],
  },
  {
    name: 'first pass after a snapshot',
    when: hasSnapshots,
    prepare: ({ stride }) => [write(0, 5 * stride, 1), create('kept')],
    act: ({ stride }) => [write(512, stride, 2), write(3 * stride, stride, 3), flush],
  },
  {
    name: 'discard and reuse',
    prepare: ({ stride }) => [write(0, 6 * stride, 1), flush],
    act: ({ stride }) => [
      discard(stride, 2 * stride),
      flush,
      write(stride + 512, stride, 2),
      writeZeroes(4 * stride, stride),
      flush,
      write(4 * stride + 512, 512, 3),
      flush,
    ],
  },
  {
    name: 'snapshot create',
    when: hasSnapshots,
    prepare: ({ stride }) => [write(0, 4 * stride, 1), create('kept'), write(stride, stride, 2)],
    act: ({ stride }) => [
      write(2 * stride + 100, stride, 3),
      create('made'),
      write(0, stride, 4),
      create('second'),
      flush,
    ],
  },
  deleting('first'),
  deleting('middle'),
  deleting('last'),
  {
    name: 'chain merge beside readers',
    when: chains,
    prepare: history,
    act: () => [{ do: 'openSnapshots' }, { do: 'delete', name: 'middle' }, { do: 'openSnapshots' }],
  },
  {
    name: 'snapshot apply',
    when: hasSnapshots,
    prepare: history,
    act: ({ stride }) => [
      write(0, stride, 12),
      { do: 'apply', name: 'first' },
      write(2 * stride, stride, 13),
      flush,
      { do: 'apply', name: 'last' },
    ],
  },
  {
    name: 'snapshot rename',
    when: ({ renameSnapshots }) => renameSnapshots,
    prepare: history,
    act: ({ stride }) => [
      write(0, stride, 14),
      { do: 'rename', name: 'middle', to: 'another name' },
      write(stride, stride, 15),
    ],
  },
  {
    name: 'resize up',
    when: resizes,
    switches: true,
    prepare: ({ stride }) => [write(0, 3 * stride, 1), flush],
    act: (lab) => [
      write(0, 512, 2),
      { do: 'resize', size: lab.size(40) },
      write(39 * lab.stride, lab.stride, 3),
      flush,
    ],
  },
  {
    name: 'resize down',
    when: shrinks,
    strides: 40,
    prepare: ({ stride }) => [write(0, 3 * stride, 1), write(20 * stride, 2 * stride, 2), flush],
    act: (lab) => [
      write(0, 512, 3),
      { do: 'resize', size: lab.size(3) },
      write(lab.stride, lab.stride, 4),
      flush,
      { do: 'resize', size: lab.size(21) },
    ],
  },
  {
    name: 'many flushes: a full journal, growing tables',
    strides: flushesBefore + flushesStruck,
    prepare: (lab) => flushes(lab, 0, flushesBefore),
    act: (lab) => flushes(lab, flushesBefore, flushesStruck),
  },
  {
    name: 'copy-on-read',
    when: hasBacking,
    overBase: true,
    copyOnRead: true,
    prepare: () => [],
    act: ({ stride }) => [
      read(0, 2 * stride),
      write(3 * stride, 512, 2),
      flush,
      read(3 * stride, 3 * stride),
      flush,
    ],
  },
  {
    name: 'populate and prefetch',
    when: hasBacking,
    overBase: true,
    prepare: ({ stride }) => [write(stride, stride, 2)],
    act: ({ stride }) => [populate(0, 2 * stride), write(2 * stride, 100, 3), { do: 'prefetch' }],
  },
  {
    name: 'release of the backing',
    when: ({ backing, releaseBacking }) => backing && releaseBacking,
    overBase: true,
    prepare: ({ stride }) => [write(stride, stride, 2), { do: 'prefetch' }],
    act: ({ stride }) => [write(0, 512, 3), { do: 'release' }, write(2 * stride, stride, 4), flush],
  },
  {
    name: 'reads and check',
    prepare: ({ stride }) => [write(0, 4 * stride, 1), writeZeroes(5 * stride, stride), flush],
    act: ({ stride }) => [read(0, 7 * stride), { do: 'check' }, { do: 'openSnapshots' }],
  },
  {
    name: 'open',
    struck: 'open',
    prepare: (lab) => (hasSnapshots(lab.capabilities) ? history(lab) : [write(0, 4 * lab.stride, 1), flush]),
    act: ({ stride }) => [write(stride, stride, 16), flush],
  },
  {
    name: 'open after a crash (recovery)',
    struck: 'open',
    crashed: true,
    prepare: (lab) => [
      ...(hasSnapshots(lab.capabilities) ? history(lab) : []),
      write(0, 2 * lab.stride, 5),
      discard(4 * lab.stride, lab.stride),
      flush,
    ],
    act: ({ stride }) => [write(stride, stride, 16), flush],
  },
  {
    name: 'close',
    struck: 'close',
    prepare: ({ stride }) => [write(0, 4 * stride, 1), flush],
    act: ({ stride }) => [
      write(2 * stride, 3 * stride, 2),
      discard(0, stride),
      flush,
      write(stride, stride, 3),
      writeZeroes(4 * stride, 2 * stride),
    ],
  },
];
