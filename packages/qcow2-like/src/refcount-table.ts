import type { ImageFile } from './image-file.ts';

/** The whole refcount table, as it is in the file. */
export async function readRefcountTable(file: ImageFile): Promise<Uint8Array> {
  const { header, geometry } = file;
  const bytes = new Uint8Array(header.refcountTableClusters * geometry.clusterBytes);
  await file.readCluster(header.refcountTableOffset, bytes, 'refcount_table_offset');
  return bytes;
}

/** How many clusters a larger table takes, and how many blocks describe both, from the end of the present table's reach. */
export function placeGrownTable(
  presentEntries: number,
  neededEntries: number,
  clusterBytes: number,
  perBlock: number,
): { readonly blocks: number; readonly tableClusters: number } {
  let blocks = 1;
  for (;;) {
    const entries = Math.max(neededEntries, presentEntries + blocks) * 1.5;
    const tableClusters = Math.ceil((entries * 8) / clusterBytes);
    const needed = Math.ceil((blocks + tableClusters) / perBlock);
    if (needed <= blocks) return { blocks, tableClusters };
    blocks = needed;
  }
}
