export { amendDisk, type AmendOptions } from './amend.ts';
export * from './awaitable.ts';
export * from './bitset.ts';
export * from './codec.ts';
export { commitDisk, type CommitOptions, type CommitReport } from './commit.ts';
export * from './counting-folder.ts';
export { crc32c, crc32cTable } from './crc32c.ts';
export { readExtent } from './data-path.ts';
export { Disk } from './disk.ts';
export type { DiskExtent } from './disk-extents.ts';
export type { DiskSnapshots } from './disk-snapshots.ts';
export * from './driver.ts';
export * from './errors.ts';
export * from './field-table.ts';
export * from './file-folder.ts';
export type { FileIo } from './file-storage.ts';
export type { GatePolicy } from './gate.ts';
export type { PopulateOptions } from './local-copies.ts';
export { countUnits, measureDisk, type MeasureOptions, touchedUnits } from './measure.ts';
export { MemoryFolder, MemoryStorage } from './memory-storage.ts';
export {
  createDisk,
  type CreateDiskOptions,
  type ImageLocation,
  openDisk,
  type OpenDiskOptions,
  probeStorage,
} from './open.ts';
export { checkOptions } from './options.ts';
export type { BackedRange, PopulateReport } from './populate.ts';
export { type Preallocation, preallocate } from './preallocate.ts';
export * from './prefetch.ts';
export { type Hold, RangeLock } from './range-lock.ts';
export { raw } from './raw.ts';
export type { RebaseOptions, RebaseReport } from './rebase.ts';
export * from './simulated-device.ts';
export { SimulatedFolder } from './simulated-folder.ts';
export * from './storage.ts';
