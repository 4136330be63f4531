import type { LongCallOptions, OptionSpec, OptionValues } from './driver.ts';
import { CowlabError } from './errors.ts';
import { type Formats, type ImageLocation, locate, openDisk } from './open.ts';
import { checkOptions } from './options.ts';

export interface AmendOptions extends Formats, LongCallOptions {
  readonly format?: string;
  /** Create options, as they are to be from now on; those that are left out stay. See `capabilities.amend`. */
  readonly values: OptionValues;
}

/**
 * Changes what an image was made with. Its disk and its snapshots read as before. Opens and locks the image, and closes
 * it. At each moment, after a crash too, the image is whole, with the old values, the new ones, or some of each. Rejects
 * with `ERR_INVALID_OPTION` for an option that cannot be changed or values that do not go together, and with
 * `ERR_UNSUPPORTED` naming what of the image is in the way; nothing has changed then.
 */
export async function amendDisk(location: ImageLocation, asked: AmendOptions): Promise<void> {
  const { file } = locate(location, asked.io);
  const { values, signal, onProgress, drivers, gate, io, format } = asked;
  const disk = await openDisk(location, {
    ...(drivers && { drivers }),
    ...(gate && { gate }),
    ...(io && { io }),
    ...(format !== undefined && { format }),
  });
  try {
    const { amend: names } = disk.capabilities;
    const table = drivers?.find(({ name }) => name === disk.format)?.options ?? {};
    if (disk.image.amend === undefined || names.length === 0) {
      const problem = `${disk.format} images keep what they were made with`;
      throw new CowlabError('ERR_UNSUPPORTED', `${file}: ${problem}`, { file, field: 'amend' });
    }
    const checked = checkOptions(withoutDefaults(names, table), values);
    await disk.image.amend(checked, { ...(signal && { signal }), ...(onProgress && { onProgress }) });
  } finally {
    await disk.close();
  }
}

/** What is not given stays as it is. */
function withoutDefaults(
  names: readonly string[],
  table: Readonly<Record<string, OptionSpec>>,
): Record<string, OptionSpec> {
  const entries = names.map((name) => {
    const { default: _, ...spec } = table[name]!;
    return [name, spec] as const;
  });
  return Object.fromEntries(entries);
}
