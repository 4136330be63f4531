import {
  amendDisk,
  type BlockDriver,
  isCowlabError,
  type OptionValue,
  type StorageFolder,
} from '@cowlab/core';
import { mainFile } from './lab.ts';

/** One option with a value that an image may not have. */
export interface Amendment {
  readonly name: string;
  readonly value: OptionValue;
}

/** Other values of every option that can be amended, and last the one that it has by default. */
export function amendmentsOf({ capabilities, options }: BlockDriver): Amendment[] {
  return capabilities.amend.flatMap((name) => {
    const { type, choices = [], default: usual } = options[name]!;
    const others: OptionValue[] =
      type === 'boolean'
        ? [usual !== true, usual === true]
        : type === 'number' || type === 'size'
          ? [Number(usual) / 2, 2 * Number(usual), Number(usual)]
          : [...choices.filter((choice) => choice !== usual), ...(usual === undefined ? [] : [usual])];
    return others.map((value) => ({ name, value }));
  });
}

/** Amends the lab's image; whether it was possible. */
export async function amended(
  folder: StorageFolder,
  driver: BlockDriver,
  drivers: readonly BlockDriver[],
  { name, value }: Amendment,
): Promise<boolean> {
  try {
    await amendDisk({ folder, file: mainFile }, { drivers, format: driver.name, values: { [name]: value } });
    return true;
  } catch (error) {
    // What an image has may be in the way, and another option of it.
    if (isCowlabError(error, 'ERR_UNSUPPORTED') || isCowlabError(error, 'ERR_INVALID_OPTION')) return false;
    throw error;
  }
}
