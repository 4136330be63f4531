/* The fields of a sparse extent's header, by the names of its specification; FORMAT.md's table is printed from here. */

export const headerFields = {
  magicNumber: { at: 0, bytes: 4, meaning: '`KDMV`', valid: 'exactly' },
  version: {
    at: 4,
    bytes: 4,
    meaning:
      '3 is a stream, or may have a list of changed blocks beside it; 1 in ours, 2 with zeroed grains, 3 in streams',
    valid: '1, 2; 3 read-only',
  },
  flags: {
    at: 8,
    bytes: 4,
    meaning:
      'bit 0 newLineChars are valid, bit 1 redundant directory, bit 2 zeroed grains, bit 16 compressed, bit 17 markers; ours have bits 0, 1 and, with zeroed grains, 2; streams 0, 16 and 17',
    valid: 'bits 16 and 17 both or none; unknown ones are passed over',
  },
  capacity: {
    at: 12,
    bytes: 8,
    meaning: 'sectors of the disk',
    valid: '1 …, as many as 2^23 grain tables map',
  },
  grainSize: {
    at: 20,
    bytes: 8,
    meaning: '8 … 2,048 in ours, 128 by default',
    valid: 'a power of two, 1 … 2^17 (64 MiB)',
  },
  descriptorOffset: {
    at: 28,
    bytes: 8,
    meaning: '1 in ours; the room is empty where the descriptor is a file of its own',
    valid: '1 …, inside the file; 0 where the descriptor is a file of its own',
  },
  descriptorSize: { at: 36, bytes: 8, meaning: '20 in ours', valid: '1 … 2,048' },
  numGTEsPerGT: { at: 44, bytes: 4, meaning: 'entries of a grain table', valid: '512' },
  rgdOffset: {
    at: 48,
    bytes: 8,
    meaning: 'redundant grain directory, with flag bit 1; 21 in ours',
    valid: '1 …, inside the file',
  },
  gdOffset: {
    at: 56,
    bytes: 8,
    meaning: 'grain directory; behind the redundant tables in ours; all ones in a stream: see the footer',
    valid: '1 …, inside the file; all ones with bit 16',
  },
  overHead: {
    at: 64,
    bytes: 8,
    meaning: 'sectors before the first grain; a multiple of grainSize in ours',
    valid: "1 … the file's length",
  },
  uncleanShutdown: { at: 72, bytes: 1, meaning: '0 in ours', valid: 'passed over' },
  newLineChars: {
    at: 73,
    bytes: 4,
    text: true,
    meaning: 'line feed, space, carriage return, line feed: shows a transfer as text',
    valid: 'exactly, with flag bit 0',
  },
  compressAlgorithm: {
    at: 77,
    bytes: 2,
    meaning: '0 in ours, 1 (deflate) in streams',
    valid: '0; 1 with bit 16',
  },
} as const;

export const markerFields = {
  value: {
    at: 0,
    bytes: 8,
    meaning: 'of a grain: its first sector in the disk; else the sectors that follow the marker',
    valid: 'as the table says; inside the file',
  },
  size: {
    at: 8,
    bytes: 4,
    meaning: 'of a grain: bytes of its zlib stream, which begins at 12; else 0',
    valid: 'up to two grains',
  },
  type: {
    at: 12,
    bytes: 4,
    meaning: '0 end, 1 grain table, 2 grain directory, 3 footer; a grain has its bytes here',
    valid: '0 … 3',
  },
} as const;
