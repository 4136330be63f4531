// The statuses are qemu-img's: the same situation, the same number.

import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { fill, makeSample, MiB } from './images.ts';
import { cowlab, hasJudge, judge, mustRun, scratch } from './lab.ts';

const at = scratch();

/** A qcow2 image with another refcount for one of its clusters; there is one behind those that are in use. */
async function makeMiscounted(cluster: (clusterCount: number) => number, refcount: number): Promise<void> {
  await makeSample(at('disk'), 'qcow2');
  const used = await readFile(at('disk'));
  const bytes = Buffer.alloc(Math.ceil(used.length / 65_536 + 1) * 65_536);
  used.copy(bytes);
  // By way of the refcount table.
  const block = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48))));
  bytes.writeUInt16BE(refcount, block + 2 * cluster(bytes.length / 65_536));
  await writeFile(at('disk'), bytes);
}

const corrupt = (): Promise<void> => makeMiscounted(() => 0, 0);
const leaking = (): Promise<void> => makeMiscounted((clusterCount) => clusterCount - 1, 1);

async function pair(change: () => Promise<void> = async () => undefined): Promise<void> {
  await makeSample(at('disk'), 'qcow2');
  await makeSample(at('other'), 'raw');
  await change();
}

interface Situation {
  readonly name: string;
  readonly make: () => Promise<unknown>;
  readonly argv: () => string[];
  readonly status: number;
  /** Where qemu-img differs, and has another one. */
  readonly theirs?: number;
}

const compareArgv = (): string[] => ['compare', '-F', 'raw', at('disk'), at('other')];

const situations: readonly Situation[] = [
  { name: 'check: clean', make: pair, argv: () => ['check', at('disk')], status: 0 },
  { name: 'check: not possible', make: pair, argv: () => ['check', at('absent')], status: 1 },
  { name: 'check: corrupt', make: corrupt, argv: () => ['check', at('disk')], status: 2 },
  { name: 'check: leaks', make: leaking, argv: () => ['check', at('disk')], status: 3 },
  {
    name: 'check: leaks, repaired',
    make: leaking,
    argv: () => ['check', '-r', 'leaks', at('disk')],
    status: 0,
  },
  {
    name: 'check: corrupt, repaired',
    make: corrupt,
    argv: () => ['check', '-r', 'all', at('disk')],
    status: 0,
  },
  // qemu-img has no check for raw disks; here there is nothing in them that could be wrong.
  { name: 'check: raw', make: pair, argv: () => ['check', '-f', 'raw', at('other')], status: 0, theirs: 63 },
  { name: 'compare: the same', make: pair, argv: compareArgv, status: 0 },
  {
    name: 'compare: different',
    make: () => pair(() => fill(at('other'), 'raw', 0, 1, 1)),
    argv: compareArgv,
    status: 1,
  },
  {
    name: 'compare: another size, zeros behind',
    make: () => pair(async () => void (await mustRun('resize', '-q', at('disk'), '20M'))),
    argv: compareArgv,
    status: 0,
  },
  {
    name: 'compare: another size, strictly',
    make: () => pair(async () => void (await mustRun('resize', '-q', at('disk'), '20M'))),
    argv: () => ['compare', '-s', ...compareArgv().slice(1)],
    status: 1,
  },
  { name: 'compare: not possible', make: pair, argv: () => ['compare', at('disk'), at('absent')], status: 2 },
  { name: 'info: not there', make: pair, argv: () => ['info', at('absent')], status: 1 },
  { name: 'map: not there', make: pair, argv: () => ['map', at('absent')], status: 1 },
  { name: 'convert: not there', make: pair, argv: () => ['convert', at('absent'), at('new')], status: 1 },
  {
    name: 'convert: no such format',
    make: pair,
    argv: () => ['convert', '-O', 'nonsense', at('disk'), at('new')],
    status: 1,
  },
  { name: 'create: no size', make: pair, argv: () => ['create', '-f', 'qcow2', at('new')], status: 1 },
  { name: 'snapshot: not there', make: pair, argv: () => ['snapshot', '-a', 'no', at('disk')], status: 1 },
  { name: 'resize: smaller', make: pair, argv: () => ['resize', at('disk'), String(MiB)], status: 1 },
  { name: 'measure: of nothing', make: pair, argv: () => ['measure', '-O', 'qcow2'], status: 1 },
  { name: 'an option that is none', make: pair, argv: () => ['info', '--nonsense', at('disk')], status: 1 },
  { name: 'a verb that is none', make: pair, argv: () => ['frobnicate', at('disk')], status: 1 },
];

describe('the exit status', () => {
  it.each(situations)('$name: $status', async ({ make, argv, status }) => {
    await make();
    expect((await cowlab(...argv())).status).toBe(status);
  });
});

describe.skipIf(!hasJudge('qemu-img'))('the exit status of qemu-img', () => {
  it.each(situations)('$name', async ({ make, argv, status, theirs = status }) => {
    await make();
    expect(judge('qemu-img', ...argv()).status).toBe(theirs);
  });
});
