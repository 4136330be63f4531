/* The fields of QCOW2's structures, by the names of its specification; FORMAT.md's tables are printed from here. */

export const headerFields = {
  magic: { at: 0, bytes: 4, meaning: '`QFI\\xfb`', valid: 'exactly' },
  version: { at: 4, bytes: 4, meaning: '', valid: '2, 3' },
  backing_file_offset: { at: 8, bytes: 8, meaning: '0: none', valid: 'in the first cluster' },
  backing_file_size: { at: 16, bytes: 4, meaning: 'bytes of the name', valid: '1 … 1,023' },
  cluster_bits: { at: 20, bytes: 4, meaning: 'a cluster has 2^cluster_bits bytes', valid: '9 … 21' },
  size: { at: 24, bytes: 8, meaning: 'guest bytes', valid: 'up to what the L1 table maps' },
  crypt_method: { at: 32, bytes: 4, meaning: 'encryption', valid: '0' },
  l1_size: { at: 36, bytes: 4, meaning: 'entries', valid: 'up to 32 MiB of them' },
  l1_table_offset: { at: 40, bytes: 8, meaning: '', valid: 'aligned, inside the file' },
  refcount_table_offset: { at: 48, bytes: 8, meaning: '', valid: 'aligned, inside the file' },
  refcount_table_clusters: { at: 56, bytes: 4, meaning: '', valid: '1 cluster … 8 MiB' },
  nb_snapshots: { at: 60, bytes: 4, meaning: '', valid: '0 … 65,536' },
  snapshots_offset: { at: 64, bytes: 8, meaning: '', valid: 'aligned, inside the file' },
  incompatible_features: {
    at: 72,
    bytes: 8,
    meaning:
      'bit 0 dirty, bit 1 corrupt, bit 2 external data file, bit 3 compression type, bit 4 extended L2',
    valid: 'these bits',
  },
  compatible_features: { at: 80, bytes: 8, meaning: 'bit 0 lazy refcounts', valid: 'any' },
  autoclear_features: {
    at: 88,
    bytes: 8,
    meaning: 'bit 0 bitmaps are valid, bit 1 raw external data',
    valid: 'any; others are cleared by an open for writing',
  },
  refcount_order: { at: 96, bytes: 4, meaning: 'counts have 2^order bits', valid: '0 … 6' },
  header_length: { at: 100, bytes: 4, meaning: '', valid: '104 …, a multiple of 8' },
  compression_type: {
    at: 104,
    bytes: 1,
    meaning: 'only where header_length is larger than 104',
    valid: '0 (deflate), 1 (zstd; exactly with incompatible bit 3)',
  },
} as const;

export const snapshotFields = {
  l1_table_offset: { at: 0, bytes: 8, meaning: '', valid: 'aligned, inside the file' },
  l1_size: { at: 8, bytes: 4, meaning: 'entries', valid: 'up to 32 MiB of them' },
  id_str_size: { at: 12, bytes: 2, meaning: 'bytes of the id', valid: 'any' },
  name_size: { at: 14, bytes: 2, meaning: 'bytes of the name', valid: 'any' },
  date_sec: { at: 16, bytes: 4, meaning: 'seconds since 1970', valid: 'any' },
  date_nsec: { at: 20, bytes: 4, meaning: 'nanoseconds', valid: 'any' },
  vm_clock_nsec: { at: 24, bytes: 8, meaning: "guest run time: 0 in ours, kept in others'", valid: 'any' },
  vm_state_size: { at: 32, bytes: 4, meaning: "VM state bytes: 0 in ours, kept in others'", valid: 'any' },
  extra_data_size: { at: 36, bytes: 4, meaning: 'bytes of extra data: 16 in ours', valid: 'up to 1,024' },
} as const;

export const bitmapFields = {
  bitmap_table_offset: { at: 0, bytes: 8, meaning: '', valid: 'aligned, inside the file' },
  bitmap_table_size: {
    at: 8,
    bytes: 4,
    meaning: 'entries',
    valid: 'as many as the disk needs, unless in use',
  },
  flags: { at: 12, bytes: 4, meaning: 'bit 0 in use, bit 1 auto: enabled', valid: 'these two bits' },
  type: { at: 16, bytes: 1, meaning: '1: dirty tracking', valid: '1' },
  granularity_bits: { at: 17, bytes: 1, meaning: 'one bit for 2^this guest bytes', valid: '9 … 31' },
  name_size: { at: 18, bytes: 2, meaning: 'bytes of the name', valid: '1 … 1,023' },
  extra_data_size: { at: 20, bytes: 4, meaning: 'bytes of extra data', valid: '0' },
} as const;
