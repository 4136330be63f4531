import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { type BlockDriver, CowlabError, type OptionValues, raw } from '@cowlab/core';
import { fvd } from '@cowlab/fvd';
import { qcow2 } from '@cowlab/qcow2-like';
import { vmdk } from '@cowlab/vmdk-chain';

/*
 * What is compared. `raw` is the yardstick and takes part in every run.
 *
 * G1 asks what the snapshot code costs an image that has no snapshots. The cleanest answer is the same driver
 * without it; `bookkeeping` says how that is had, or why there is nothing to switch off.
 */

export interface Subject {
  /** What the report calls it: the driver's name, with what is special about it behind a dash. */
  readonly name: string;
  readonly driver: BlockDriver;
  /** Options of its images, beside those of a scenario. */
  readonly create: OptionValues;
  readonly open: OptionValues;
  readonly bookkeeping: Bookkeeping;
  /** The file that exports the driver, when it is not one of ours: a fresh process gets it from there. */
  readonly module?: string;
}

type Bookkeeping =
  | {
      readonly switchable: true;
      readonly how: string;
      readonly open: OptionValues;
      readonly create: OptionValues;
    }
  | { readonly switchable: false; readonly why: string };

function fixed(why: string): Bookkeeping {
  return { switchable: false, why };
}

const plain: Pick<Subject, 'create' | 'open'> = { create: {}, open: {} };

export const yardstick: Subject = {
  name: raw.name,
  driver: raw,
  ...plain,
  bookkeeping: fixed('raw has no snapshots'),
};

const lazyRefcounts: Bookkeeping = {
  switchable: true,
  how: 'lazy_refcounts=on: refcounts are counted in memory, and written when the image is closed',
  open: {},
  create: { lazy_refcounts: true },
};
const noRefcounts: Bookkeeping = fixed(
  'an image that never had a snapshot has no refcounts: there is nothing to switch off',
);

const liveRefcounts: Bookkeeping = {
  switchable: true,
  how: 'live_refcounts=off: FVD as it is',
  open: { live_refcounts: false },
  create: {},
};

const filesOfTheirOwn: Bookkeeping = fixed(
  'a snapshot is a file of its own: without one there is no bookkeeping to switch off',
);

/** The three designs of the mail. */
const designs: readonly Subject[] = [
  { name: fvd.name, driver: fvd, ...plain, bookkeeping: noRefcounts },
  { name: qcow2.name, driver: qcow2, ...plain, bookkeeping: lazyRefcounts },
  // The mail's VMDK is a chain of files that is read link by link.
  { name: vmdk.name, driver: vmdk, create: {}, open: { chain: 'naive' }, bookkeeping: filesOfTheirOwn },
];

/** The same with one thing changed, to see what it is worth. Measured when they, or the profile, ask for it. */
const variants: readonly Subject[] = [
  // Of which the mail says that deleting stays slow.
  {
    name: 'vmdk-optimised',
    driver: vmdk,
    create: {},
    open: { chain: 'optimised' },
    bookkeeping: filesOfTheirOwn,
  },
  {
    name: 'fvd-64k',
    driver: fvd,
    create: { block_size: 65_536 },
    open: {},
    bookkeeping: noRefcounts,
  },
  {
    name: 'fvd-unjournaled',
    driver: fvd,
    create: {},
    open: { journal: false },
    bookkeeping: noRefcounts,
  },
  {
    name: 'fvd-chunk-copy',
    driver: fvd,
    create: {},
    open: { copy_chunks: true },
    bookkeeping: noRefcounts,
  },
  {
    name: 'fvd-live-refcounts',
    driver: fvd,
    create: {},
    open: { live_refcounts: true },
    bookkeeping: liveRefcounts,
  },
  {
    name: 'qcow2-lazy',
    driver: qcow2,
    create: { lazy_refcounts: true },
    open: {},
    bookkeeping: fixed('it is switched off'),
  },
  {
    name: 'qcow2-small-caches',
    driver: qcow2,
    create: {},
    open: { l2_cache_size: 131_072, refcount_cache_size: 131_072 },
    bookkeeping: lazyRefcounts,
  },
];

const subjects: readonly Subject[] = [...designs, ...variants];

/** What a run compares without a choice, and everything that it can. */
export const formatNames: readonly string[] = designs.map(({ name }) => name);
export const allFormatNames: readonly string[] = subjects.map(({ name }) => name);

/** The drivers that open what the benchmark makes. */
export const drivers: readonly BlockDriver[] = designs.map(({ driver }) => driver);

/** The chosen formats, the three designs without a choice. Throws `ERR_UNKNOWN_FORMAT`, `ERR_INVALID_OPTION`. */
export function chooseSubjects(names: readonly string[] = formatNames): readonly Subject[] {
  const there = `there are: ${allFormatNames.join(', ')}`;
  if (names.length === 0) {
    const message = `bench: formats: none is chosen; ${there}`;
    throw new CowlabError('ERR_INVALID_OPTION', message, { field: 'formats' });
  }
  for (const name of names) {
    if (allFormatNames.includes(name)) continue;
    const message = `bench: formats: unknown format ${JSON.stringify(name)}; ${there}`;
    throw new CowlabError('ERR_UNKNOWN_FORMAT', message, { field: 'formats', value: name });
  }
  return subjects.filter(({ name }) => names.includes(name));
}

/** Of the values of N, those that a format can have, with a few snapshots more under the stopwatch. */
export function countsFor(
  { driver: { capabilities } }: Subject,
  counts: readonly number[],
  more: number,
): readonly number[] {
  if (capabilities.snapshots === 'none') return [0];
  return counts.filter((count) => count + more <= capabilities.maxSnapshots);
}

const driverMembers: readonly (keyof BlockDriver)[] = [
  'name',
  'capabilities',
  'options',
  'openOptions',
  'probe',
  'create',
  'open',
];

/** A driver of somebody else's: the default export of a module. Rejects with `ERR_INVALID_OPTION`. */
export async function loadSubject(module: string): Promise<Subject> {
  const file = path.resolve(module);
  const refuse = (problem: string, cause?: unknown): CowlabError =>
    new CowlabError(
      'ERR_INVALID_OPTION',
      `bench: driver ${module}: ${problem}`,
      { field: 'driver', value: module },
      cause,
    );
  let exported: { readonly default?: unknown };
  try {
    exported = (await import(pathToFileURL(file).href)) as { readonly default?: unknown };
  } catch (error) {
    throw refuse(error instanceof Error ? error.message : String(error), error);
  }
  const driver = exported.default as Partial<BlockDriver> | undefined;
  const missing = driverMembers.filter((member) => driver?.[member] === undefined);
  if (missing.length > 0) throw refuse(`its default export is no driver: it has no ${missing.join(', ')}`);
  const { name } = driver as BlockDriver;
  if (name === yardstick.name || allFormatNames.includes(name))
    throw refuse(`there is a format ${name} already`);
  const bookkeeping = fixed('a driver from elsewhere: nothing is known of what could be switched off');
  return { name, driver: driver as BlockDriver, ...plain, bookkeeping, module: file };
}
