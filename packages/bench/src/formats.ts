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
  readonly name: string;
  readonly driver: BlockDriver;
  readonly bookkeeping: Bookkeeping;
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

export const yardstick: Subject = { name: raw.name, driver: raw, bookkeeping: fixed('raw has no snapshots') };

const subjects: readonly Subject[] = [
  {
    name: fvd.name,
    driver: fvd,
    bookkeeping: fixed('an image that never had a snapshot has no refcounts: there is nothing to switch off'),
  },
  {
    name: qcow2.name,
    driver: qcow2,
    bookkeeping: {
      switchable: true,
      how: 'lazy_refcounts=on: refcounts are counted in memory, and written when the image is closed',
      open: {},
      create: { lazy_refcounts: true },
    },
  },
  {
    name: vmdk.name,
    driver: vmdk,
    bookkeeping: fixed('a snapshot is a file of its own: without one there is no bookkeeping to switch off'),
  },
];

/** Every format that a run can compare. */
export const formatNames: readonly string[] = subjects.map(({ name }) => name);

/** The drivers that open what the benchmark makes. */
export const drivers: readonly BlockDriver[] = subjects.map(({ driver }) => driver);

/** The chosen formats, all of them without a choice. Throws `ERR_UNKNOWN_FORMAT`, `ERR_INVALID_OPTION`. */
export function chooseSubjects(names: readonly string[] = formatNames): readonly Subject[] {
  const there = `there are: ${formatNames.join(', ')}`;
  if (names.length === 0) {
    const message = `bench: formats: none is chosen; ${there}`;
    throw new CowlabError('ERR_INVALID_OPTION', message, { field: 'formats' });
  }
  for (const name of names) {
    if (formatNames.includes(name)) continue;
    const message = `bench: formats: unknown format ${JSON.stringify(name)}; ${there}`;
    throw new CowlabError('ERR_UNKNOWN_FORMAT', message, { field: 'formats', value: name });
  }
  return subjects.filter(({ name }) => names.includes(name));
}
