import { recover } from './check.ts';
import { activeTables, countDown } from './counting.ts';
import type { Metadata } from './metadata.ts';

/** Gives up everything that the disk has: an L1 table without entries takes the place of the present one. */
export async function emptyImage(metadata: Metadata): Promise<void> {
  await metadata.sync();
  const { mapping, file } = metadata;
  const { l1Offset: oldOffset, l1EntryCount } = file.header;
  const present = activeTables(metadata);
  const l1 = new Uint8Array(l1EntryCount * 8);
  await metadata.transact(
    {
      raise: async () => ({ l1Offset: await metadata.writeNew(l1, 'mapping') }),
      lower: async () => {
        await countDown({ metadata, options: {} }, present);
        await metadata.countDown(oldOffset, l1EntryCount * 8);
        mapping.replaceL1(l1);
      },
      switched: async () => undefined,
    },
    () => recover(metadata),
  );
  if (!file.hasDataFile) return;
  await file.dataStorage.truncate(0);
  await file.dataStorage.truncate(file.header.size);
}
