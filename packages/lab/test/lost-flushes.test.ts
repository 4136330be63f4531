import { type LostFlush, loseFlushes } from '@cowlab/conformance';
import { describe, expect, it } from 'vitest';
import { subjectsOf } from '../src/subjects.ts';

/*
 * The canary of the crash explorer: each flush that a driver makes for a guest's flush, and for snapshot create,
 * delete and apply, is lost, one at a time, and the explorer has to notice. A flush is named by the request, by
 * what it would have made durable, and by which of those it is.
 *
 * Flushes whose loss no power loss can show, and why, are named here; a driver that gets another one, or stops
 * needing one, shows up.
 */

const workloads = ['first-pass', 'snapshot-create', 'delete-only', 'delete-first', 'delete-middle', 'apply'];
const requests = new Set(['flush', 'create', 'delete', 'apply']);

const unneeded: Record<string, Record<string, string>> = {
  fvd: {},
  qcow2: {
    'create refcount 1': 'counts that only went down: where they stay too high there is a leak, as declared',
    'delete refcount 1': 'as in create',
    'delete mapping+refcount 1':
      'as in create; a COPIED flag that is not set costs a copy, and counts as a leak, too',
    'apply refcount 1': 'as in create',
  },
  vmdk: {
    'flush header 1': 'the new content id, which tells children of other disks that the content has changed',
    'apply header 1': 'as in flush',
    'create header 1': 'the name in the extent line of the frozen file, which is for other programs',
    'create mapping 1': 'the flush of that name, in the same file, covers the tables',
    'create names 1': 'names become durable in their order: the last flush covers this one',
    'create names 2': 'as above',
    'delete header 2':
      'until the child has it, its parent is known by having the CID of the child; QEMU is told by it',
    'apply names 1': 'names become durable in their order: a later flush covers this one',
    'apply names 2': 'as above',
    'apply names 3': 'the list, in which only the hint at the current snapshot has changed',
  },
};

const nameOf = ({ during, work, nth }: LostFlush): string => `${during} ${work} ${nth}`;

describe.each(Object.keys(unneeded))('a flush of %s that is lost', (name) => {
  it('is noticed, or is one of those that do not matter', async () => {
    const subject = subjectsOf(name)[0]!;
    const lost: LostFlush[] = [];
    for (const workload of workloads) {
      for (const seed of [1, 2]) lost.push(...(await loseFlushes(subject, workload, seed)));
    }
    const ofRequests = lost.filter(({ during }) => requests.has(during));
    const found = new Set(ofRequests.filter((one) => one.found !== undefined).map(nameOf));
    const unseen = [...new Set(ofRequests.map(nameOf))].filter((one) => !found.has(one));
    expect(unseen.toSorted()).toEqual(Object.keys(unneeded[name]!).toSorted());
    expect([...found]).toEqual(expect.arrayContaining([expect.stringMatching(/^flush /)]));
    expect(ofRequests.every(({ states, found: violation }) => states > 0 || violation !== undefined)).toBe(
      true,
    );
  }, 900_000);
});
