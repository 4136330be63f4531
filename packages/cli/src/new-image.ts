import {
  type BackingReference,
  type BlockDriver,
  createDisk,
  type Disk,
  type OptionValues,
} from '@cowlab/core';
import { drivers } from './formats.ts';
import { closing, openImage } from './images.ts';
import { placeOf } from './places.ts';

/** An image that is made in order to be filled. */
export interface NewImage {
  readonly driver: BlockDriver;
  readonly size: number;
  readonly options: OptionValues;
  readonly backing?: BackingReference;
  readonly allow: readonly string[];
}

/** Makes an image and fills it; one that could not be filled is removed again, with all files that were made for it. */
export async function makeFilled(
  typed: string,
  { driver, size, options, backing, allow }: NewImage,
  fill: (disk: Disk) => Promise<void>,
): Promise<void> {
  const place = placeOf(typed, 'streamed');
  const { folder } = place;
  try {
    await createDisk(place, { driver, drivers, size, options, gate: { allow }, ...(backing && { backing }) });
    const { disk } = await openImage(typed, { format: driver.name, writable: true, allow, place });
    await closing(disk, typed, () => fill(disk));
  } catch (error) {
    for (const name of place.made) {
      if (await folder.exists(name)) await folder.remove(name);
    }
    throw error;
  }
}
