import type { Backing, Bitset, Storage } from '@cowlab/core';
import type { Replay } from './journal.ts';
import type { Header } from './layout.ts';
import type { ChunkTable, DamagedChunks } from './table.ts';

/** What an open image of version 1 consists of. */
export interface Version1Parts {
  readonly storage: Storage;
  readonly header: Header;
  readonly table: ChunkTable | undefined;
  readonly damaged: DamagedChunks | undefined;
  /** Blocks of the base that are in the image. */
  readonly bitmap: Bitset | undefined;
  readonly base: Backing | undefined;
  /** The separate data file. */
  readonly data: Backing | undefined;
  /** None when the image was closed cleanly. */
  readonly replayed: Replay | undefined;
}

/** Where data begin and end, in the file that has them. */
export interface DataRange {
  readonly start: number;
  readonly end: number;
}

export function dataRange({
  storage,
  header,
  data,
}: Pick<Version1Parts, 'storage' | 'header' | 'data'>): DataRange {
  return data === undefined
    ? { start: header.metadataBytes, end: storage.size() }
    : { start: 0, end: data.size };
}
