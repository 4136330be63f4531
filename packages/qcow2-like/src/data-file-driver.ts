import { posix } from 'node:path';
import type { BlockDriver, OptionValues } from '@cowlab/core';
import { qcow2 } from './driver.ts';

/** QCOW2 images whose data lie in `NAME.data`, as a driver of its own: with what such images can do, and no more. */
export function qcow2WithDataFile(raw: boolean): BlockDriver {
  const optionsOf = (name: string): OptionValues => ({ data_file: name, data_file_raw: raw });
  return {
    ...qcow2,
    capabilities: {
      ...qcow2.capabilities,
      snapshots: 'none',
      maxSnapshots: 0,
      renameSnapshots: false,
      diff: false,
      compress: 'none',
      backing: !raw,
      releaseBacking: !raw,
      changeBacking: !raw,
      empty: !raw,
      // What the suite amends is over a backing.
      amend: raw ? [] : qcow2.capabilities.amend,
    },
    async create(folder, file, request) {
      let name = `${file}.data`;
      // A scenario may give an image another name and make a new one: the first one's data file keeps its name.
      while (await folder.exists(name)) name += '+';
      const options = { ...request.options, ...optionsOf(posix.basename(name)) };
      return qcow2.create(folder, file, { ...request, options });
    },
    measure: (request) =>
      qcow2.measure!({ ...request, options: { ...request.options, ...optionsOf('data') } }),
  };
}
