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

export type Bookkeeping =
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
    bookkeeping: fixed(
      'an image that never had a snapshot has no refcount table: nothing is there to switch off',
    ),
  },
  {
    name: qcow2.name,
    driver: qcow2,
    bookkeeping: fixed('its refcounts are part of the format, and this driver always keeps them'),
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

/** The chosen formats, all of them without a choice. Throws `ERR_UNKNOWN_FORMAT`. */
export function chooseSubjects(names: readonly string[] = formatNames): readonly Subject[] {
  for (const name of names) {
    if (formatNames.includes(name)) continue;
    throw new CowlabError(
      'ERR_UNKNOWN_FORMAT',
      `bench: unknown format ${name}; there are: ${formatNames.join(', ')}`,
      {
        field: 'formats',
        value: name,
      },
    );
  }
  return subjects.filter(({ name }) => names.includes(name));
}
