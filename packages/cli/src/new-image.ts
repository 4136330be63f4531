import path from 'node:path';
import {
  type BackingReference,
  type BlockDriver,
  createDisk,
  type Disk,
  type OptionValues,
} from '@cowlab/core';
import { drivers } from './formats.ts';
import { closing, openImage, RecordingFolder } from './images.ts';

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
  file: string,
  { driver, size, options, backing, allow }: NewImage,
  fill: (disk: Disk) => Promise<void>,
): Promise<void> {
  const folder = new RecordingFolder(path.dirname(file));
  try {
    await createDisk(
      { folder, file: path.basename(file) },
      { driver, drivers, size, options, gate: { allow }, ...(backing && { backing }) },
    );
    const { disk } = await openImage(file, { format: driver.name, writable: true, allow, folder });
    await closing(disk, file, () => fill(disk));
  } catch (error) {
    for (const name of folder.made) {
      if (await folder.exists(name)) await folder.remove(name);
    }
    throw error;
  }
}
