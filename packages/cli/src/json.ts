import type {
  CheckReport,
  CommitReport,
  CompactReport,
  Disk,
  ImageInfo,
  Measurement,
  RebaseReport,
  SnapshotInfo,
} from '@cowlab/core';
import type { NbdExport, NbdServerStats } from '@cowlab/nbd';

/*
 * The shapes that `--json` prints. What qemu-img's `--output=json` has too bears the same name, so that scripts
 * written for one read the other. Sizes and offsets are bytes.
 */

export interface SnapshotJson {
  readonly id: string;
  readonly name: string;
  readonly 'date-sec': number;
  readonly 'date-nsec': number;
  readonly 'virtual-size': number;
  /** The id of the snapshot it grew from, null for a first one; absent where the format does not keep it. */
  readonly parent?: string | null;
}

export interface InfoJson {
  readonly filename: string;
  readonly format: string;
  readonly 'virtual-size': number;
  /** Bytes on the host. */
  readonly 'actual-size': number;
  /** Allocation unit. */
  readonly 'cluster-size': number;
  readonly 'backing-filename'?: string;
  readonly 'backing-filename-format'?: string;
  /** The id of the backing file's snapshot that this image is a clone of. */
  readonly 'backing-snapshot'?: string;
  readonly files: readonly string[];
  readonly snapshots: readonly SnapshotJson[];
  readonly 'format-specific': Readonly<Record<string, string | number | boolean>>;
}

export interface RebaseJson {
  readonly filename: string;
  readonly format: string;
  /** As it is named now. */
  readonly 'backing-filename'?: string;
  readonly 'backing-filename-format'?: string;
  readonly 'backing-snapshot'?: string;
  readonly 'compared-bytes': number;
  /** What has become the image's own. */
  readonly 'copied-bytes': number;
}

export interface CommitJson {
  readonly filename: string;
  /** The image that was committed to, as the chain names it. */
  readonly 'base-filename': string;
  readonly 'written-bytes': number;
  readonly 'zeroed-bytes': number;
  readonly 'grown-bytes': number;
  readonly emptied: boolean;
  /** Images between the two, which read wrongly from now on. */
  readonly invalid: readonly string[];
}

/** The names are those of `qemu-img measure --output=json`. */
export interface MeasureJson {
  readonly required: number;
  readonly 'fully-allocated': number;
}

export interface AmendJson {
  readonly filename: string;
  readonly format: string;
  /** What the image has now. */
  readonly 'format-specific': InfoJson['format-specific'];
}

export interface CheckJson {
  readonly filename: string;
  readonly format: string;
  readonly corruptions: number;
  readonly leaks: number;
  readonly repaired: number;
  readonly 'image-end-offset': number;
  readonly 'allocated-bytes': number;
  /** At most 1,000. */
  readonly findings: readonly FindingJson[];
}

export interface FindingJson {
  readonly severity: 'corruption' | 'leak';
  readonly structure: string;
  readonly message: string;
  readonly filename: string;
  readonly offset?: number;
  readonly repaired: boolean;
}

export interface MapEntryJson {
  readonly start: number;
  readonly length: number;
  /** Which image of the chain answers: 0 this one, 1 its backing file, … */
  readonly depth: number;
  /** Some image of the chain has these bytes, or says that they are zeros. */
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  readonly compressed: boolean;
  /** Where the bytes are, and in which file; for data that is stored as it is. */
  readonly offset?: number;
  readonly filename?: string;
}

/** Bytes that may differ between two states. */
export interface DiffEntryJson {
  readonly start: number;
  readonly length: number;
}

export interface CompactJson {
  readonly filename: string;
  readonly format: string;
  /** Length of the image's files. */
  readonly 'bytes-before': number;
  readonly 'bytes-after': number;
  readonly 'moved-bytes': number;
}

/** What a server says when clients can come. */
export interface ServeJson {
  /** That of the default export, or of the first. */
  readonly uri: string;
  readonly pid: number;
  readonly exports: readonly {
    readonly name: string;
    readonly 'virtual-size': number;
    readonly 'read-only': boolean;
  }[];
}

/** What a server says on SIGUSR1, of the time since it began to listen. */
export interface ServeStatisticsJson {
  readonly uri: string;
  readonly seconds: number;
  /** Now. */
  readonly connections: number;
  readonly 'total-connections': number;
  /** By command, those refused included. */
  readonly requests: {
    readonly read: number;
    readonly write: number;
    readonly disconnect: number;
    readonly flush: number;
    readonly trim: number;
    readonly cache: number;
    readonly 'write-zeroes': number;
    readonly 'block-status': number;
  };
  readonly 'read-bytes': number;
  readonly 'written-bytes': number;
  /** Replies that told an error. */
  readonly errors: number;
  /** What clients owe now: payloads that are coming or being written, replies that are on their way. */
  readonly 'held-bytes': number;
  readonly images: readonly {
    readonly filename: string;
    readonly format: string;
    /** Mapping metadata in memory, now. */
    readonly 'metadata-bytes': number;
  }[];
}

/** A disk that is served, and what it was called by. */
export interface ServedImage {
  readonly filename: string;
  readonly disk: Disk;
}

export function serveJson(uri: string, exports: readonly NbdExport[]): ServeJson {
  return {
    uri,
    pid: process.pid,
    exports: exports.map(({ name, disk, readOnly }) => ({
      name,
      'virtual-size': disk.size,
      'read-only': readOnly || disk.readOnly,
    })),
  };
}

export function serveStatisticsJson(
  uri: string,
  seconds: number,
  stats: NbdServerStats,
  images: readonly ServedImage[],
): ServeStatisticsJson {
  const { writeZeroes, blockStatus, ...requests } = stats.requests;
  return {
    uri,
    seconds,
    connections: stats.connections,
    'total-connections': stats.totalConnections,
    requests: { ...requests, 'write-zeroes': writeZeroes, 'block-status': blockStatus },
    'read-bytes': stats.readBytes,
    'written-bytes': stats.writtenBytes,
    errors: stats.errors,
    'held-bytes': stats.heldBytes,
    images: images.map(({ filename, disk }) => ({
      filename,
      format: disk.format,
      'metadata-bytes': disk.stats().residentMetadataBytes,
    })),
  };
}

export function compactJson(filename: string, format: string, report: CompactReport): CompactJson {
  const { bytesBefore, bytesAfter, movedBytes } = report;
  return {
    filename,
    format,
    'bytes-before': bytesBefore,
    'bytes-after': bytesAfter,
    'moved-bytes': movedBytes,
  };
}

export function snapshotJson(snapshot: SnapshotInfo): SnapshotJson {
  const milliseconds = snapshot.createdAt.getTime();
  const seconds = Math.floor(milliseconds / 1000);
  return {
    id: snapshot.id,
    name: snapshot.name,
    'date-sec': seconds,
    'date-nsec': (milliseconds - seconds * 1000) * 1_000_000,
    'virtual-size': snapshot.size,
    ...(snapshot.parent !== undefined && { parent: snapshot.parent }),
  };
}

type BackingJson = Pick<InfoJson, 'backing-filename' | 'backing-filename-format' | 'backing-snapshot'>;

function backingJson({ backing }: ImageInfo): BackingJson {
  return {
    ...(backing && { 'backing-filename': backing.file }),
    ...(backing?.format !== undefined && { 'backing-filename-format': backing.format }),
    ...(backing?.snapshot !== undefined && { 'backing-snapshot': backing.snapshot }),
  };
}

export function amendJson(filename: string, { format, details }: ImageInfo): AmendJson {
  return { filename, format, 'format-specific': details };
}

export function measureJson({ requiredBytes, fullyAllocatedBytes }: Measurement): MeasureJson {
  return { required: requiredBytes, 'fully-allocated': fullyAllocatedBytes };
}

export function commitJson(filename: string, report: CommitReport): CommitJson {
  return {
    filename,
    'base-filename': report.base,
    'written-bytes': report.writtenBytes,
    'zeroed-bytes': report.zeroedBytes,
    'grown-bytes': report.grownBytes,
    emptied: report.emptied,
    invalid: report.invalid,
  };
}

export function rebaseJson(filename: string, info: ImageInfo, report: RebaseReport): RebaseJson {
  return {
    filename,
    format: info.format,
    ...backingJson(info),
    'compared-bytes': report.comparedBytes,
    'copied-bytes': report.copiedBytes,
  };
}

export function infoJson(filename: string, info: ImageInfo, snapshots: readonly SnapshotInfo[]): InfoJson {
  return {
    filename,
    format: info.format,
    'virtual-size': info.size,
    'actual-size': info.storageBytes,
    'cluster-size': info.unitBytes,
    ...backingJson(info),
    files: info.files,
    snapshots: snapshots.map(snapshotJson),
    'format-specific': info.details,
  };
}

export function checkJson(filename: string, format: string, report: CheckReport): CheckJson {
  return {
    filename,
    format,
    corruptions: report.corruptions,
    leaks: report.leaks,
    repaired: report.repaired,
    'image-end-offset': report.imageEndBytes,
    'allocated-bytes': report.allocatedBytes,
    findings: report.findings.map(({ severity, structure, message, file, hostOffset, repaired }) => ({
      severity,
      structure,
      message,
      filename: file,
      ...(hostOffset !== undefined && { offset: hostOffset }),
      repaired,
    })),
  };
}
