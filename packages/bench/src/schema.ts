import * as v from 'valibot';
import { type AblationRow, type AxisRow, axesSchemas, type ServiceRow } from './axes/schema.ts';
import { type QemuPart, qemuPartSchema } from './targets/schema.ts';

export type { AblationRow, AxisRow, ServiceRow } from './axes/schema.ts';
export type { QemuPart, QemuSessionRow, TrendRow } from './targets/schema.ts';

/*
 * What `results.json` holds. The interfaces are for readers of the code, the schema checks files; the type
 * checker holds the two together. Units end every name; where nothing is said, a number is a count.
 *
 * `version` rises when a field changes its meaning or goes away; new fields may come without that.
 */

export const RESULTS_VERSION = 3;
/** Files of these versions can be read: 2 has all that 3 has, and nothing of QEMU. */
const READABLE_VERSIONS: readonly number[] = [2, RESULTS_VERSION];

export interface PurposeCalls {
  reads: number;
  readBytes: number;
  writes: number;
  writtenBytes: number;
  zeroes: number;
  discards: number;
}

/** What reached the storages: all of it, and by purpose. `calls` counts reads, writes, zeroes, discards and flushes. */
export interface Calls {
  calls: number;
  bytes: number;
  flushes: number;
  folderCalls: number;
  purposes: Record<'data' | 'header' | 'mapping' | 'journal' | 'refcount' | 'snapshot', PurposeCalls>;
}

/** Random requests, in rounds: in each round every cell does one batch, so that `roundMicros` pair up across cells. */
export interface RequestRow {
  format: string;
  snapshots: number;
  operations: number;
  /** Microseconds per operation, one number a round. */
  roundMicros: number[];
  calls: Calls;
}

export interface OverwriteRow extends RequestRow {
  /** `first`: every block is written for the first time since the last snapshot. `steady`: the same blocks again. */
  pass: 'first' | 'steady';
  flushEvery: number;
}

/** Random writes into an empty image that never had a snapshot. */
export interface AllocateRow extends RequestRow {
  /** `as is`, or with the snapshot bookkeeping switched off, as `how` says. */
  variant: 'as is' | 'without bookkeeping';
  how: string;
  /** Bytes of refcounts held in memory afterwards, as the driver reports them; QEMU does not. */
  residentRefcountBytes?: number;
}

/** One opening of a cell: what its open, its work (a read of everything, random reads, overwrites) and its close cost. */
export interface SessionRow {
  format: string;
  snapshots: number;
  opening: Calls;
  working: Calls;
  closing: Calls;
  /** Of all guest bytes after the overwrites; they were what the workload says, or the run had failed. */
  contentsCrc32c?: number;
  /** Bytes of metadata in memory after the reads, and after both overwrite passes. */
  residentMetadataBytes: number;
  residentAfterOverwritesBytes: number;
  /** Everything the driver counts, after the reads. */
  counters: Record<string, number>;
}

export interface OpenRow {
  format: string;
  snapshots: number;
  /** Open, one random read, nothing else; one number a round. */
  milliseconds: number[];
}

export interface ProcessMemoryRow {
  format: string;
  snapshots: number;
  /** Resident set of a fresh process that opened the image and read once; one number a process. */
  rssBytes: number[];
}

/** Creates, deletes or applies; of our drivers under tinybench, and applies on large images only. */
export interface SnapshotRow {
  operation: 'create' | 'delete' | 'apply';
  format: string;
  /** Snapshots that existed before the first of the operations. */
  snapshots: number;
  imageBytes: number;
  /** For deletes: bytes written between the snapshot and the one before it. Else: since the last snapshot. */
  heldBytes: number;
  samplesMs: number[];
  medianMs: number;
  /** Of all of the samples together, or of so many more, which were not timed. */
  calls: Calls;
  countedSamples?: number;
}

/** An image of the large scenario: without snapshots, with one, and with as many as it got. */
export interface LargeImageRow {
  format: string;
  imageBytes: number;
  snapshots: number;
  /** Bytes on the host, all of them metadata. */
  storageBytes: number;
  /** Of the image's file: the data are holes in it. */
  fileBytes: number;
  /** Where it lay: an image whose file would be too long for the folder of the others is made in memory. */
  fileSystem: string;
  openSamplesMs: number[];
  openMs: number;
  /** The median of the time from the first read of a refcount to the end of opening; 0 where none is read. */
  refcountScanMs: number;
  /** Of one opening. */
  opening: Calls;
  residentMetadataBytes: number;
  /** Everything the driver counts. */
  counters: Record<string, number>;
  /**
   * Resident sets of fresh processes that opened it and read once, at N = 0 and at the largest N in turns; none at
   * N = 1, nor where the package is not built.
   */
  rssBytes: number[];
}

/** A large image, fully mapped, of which snapshots are taken while nobody writes to it. */
export interface IdleSnapshotsRow {
  format: string;
  imageBytes: number;
  snapshots: number;
  milliseconds: number;
  /** By which the image has grown on the host. */
  grownBytes: number;
  /** Before, and after the image was opened again. */
  residentBeforeBytes: number;
  residentMetadataBytes: number;
}

/** What the file system asks for a file that grows, without any format: the writes of an overwrite pass, in rounds. */
export interface GrowthRow {
  /** `in place`: at random offsets of a full file. `appended`: at its end. `recorded`: and a second write and flush. */
  pattern: 'in place' | 'appended' | 'recorded';
  operations: number;
  roundMicros: number[];
  flushes: number;
}

/** A workload on a simulated device: microseconds of its virtual clock for each operation, alike in every run. */
export interface DeviceRow {
  /** `hdd`, `ssd`, `nvme`, `network`. */
  device: string;
  /** Requests that the guest keeps under way. */
  depth: number;
  format: string;
  snapshots: number;
  workload: 'open' | 'read' | 'first overwrite' | 'steady overwrite' | 'create' | 'delete';
  operations: number;
  micros: number;
}

/** A base, all data, that is copied into an empty image over it; `raw` is a copy of the file without any format. */
export interface BaseCopyRow {
  format: string;
  method: 'file copy' | 'populate' | 'prefetch';
  bytes: number;
  /** A number a round; in every round each format and method takes its turn. */
  milliseconds: number[];
  /** Of letting go of the base afterwards; none where the format cannot. */
  releaseMs: number[];
}

/** A snapshot, a few random writes, a flush, a snapshot, … */
export interface HistoryRow {
  format: string;
  snapshots: number;
  writesPerSnapshot: number;
  milliseconds: number;
  calls: Calls;
  /** Bytes on the host, before and afterwards. */
  storageBytesBefore: number;
  storageBytes: number;
  residentMetadataBytes: number;
  /** Reads afterwards, beside the same reads of an image that never had a snapshot; microseconds each, paired rounds. */
  randomReads: PairedReads;
  /** Of 1 MiB, one after the other. */
  sequentialReads: PairedReads;
}

export interface PairedReads {
  before: number[];
  after: number[];
  /** Storage reads for each, afterwards. */
  callsAfter: number;
}

export interface Omission {
  scenario: string;
  format: string;
  reason: string;
}

export type Verdict = 'ideal' | 'good' | 'ok' | 'poor' | 'very poor';
export type GoalName = 'G1' | 'G2' | 'G3' | 'G4' | 'G5' | 'G6';

export interface GoalRow {
  goal: GoalName;
  format: string;
  /** The number that the verdict rests on; its unit is the goal's: a share, a ratio, seconds. */
  value: number;
  /** The same in words, with what it comes from. */
  measured: string;
  verdict: Verdict;
  /** The N it was judged at, where that is not the largest of the run: a target's budget ended there. */
  snapshots?: number;
  /**
   * What the mail of 2011 says, and how that compares. No claim, where the mail says nothing; no comparison either where the
   * verdict is better than the claim and more snapshots might have made it worse.
   */
  claim?: Verdict;
  agreement?: 'agrees' | 'better' | 'worse';
}

/** A number that the design asks of FVD, and what was measured. */
export interface BarRow {
  /** What was done: `churn`, `first pass, N=1000`. */
  subject: string;
  quantity: string;
  unit: 'bytes' | 'ms' | 'count' | 'ratio';
  value: number;
  /** The value must be … the limit. */
  relation: 'at most' | 'at least';
  limit: number;
  /** Where the limit comes from, when it was measured too: `qcow2`. */
  limitOf: string;
  met: boolean;
}

export interface Environment {
  node: string;
  platform: string;
  arch: string;
  kernel: string;
  cpu: string;
  cores: number;
  memoryBytes: number;
  fileSystem: string;
  date: string;
}

/** What a loss of power may leave of an image: declared by the driver, and held by the lab, which makes such states. */
export interface PowerLossRow {
  format: string;
  leaves: 'clean' | 'leaks';
  /** Whether `check` can repair leaks; what is clean needs none. */
  repairable: boolean;
}

export interface Results {
  schema: 'cowlab-bench-results';
  version: number;
  environment: Environment;
  seed: number;
  profile: Record<string, unknown>;
  formats: string[];
  durationSeconds: number;
  goals: GoalRow[];
  bars: BarRow[];
  reads: RequestRow[];
  overwrites: OverwriteRow[];
  allocations: AllocateRow[];
  sessions: SessionRow[];
  opens: OpenRow[];
  processMemory: ProcessMemoryRow[];
  snapshotOperations: SnapshotRow[];
  largeImages: LargeImageRow[];
  idleSnapshots: IdleSnapshotsRow[];
  histories: HistoryRow[];
  growths: GrowthRow[];
  baseCopies: BaseCopyRow[];
  devices: DeviceRow[];
  ablations: AblationRow[];
  services: ServiceRow[];
  axes: AxisRow[];
  powerLosses: PowerLossRow[];
  omissions: Omission[];
  /** What of QEMU's part fits no other list; present when the run had one. */
  qemu?: QemuPart;
}

const count = v.pipe(v.number(), v.integer(), v.minValue(0));
const amount = v.pipe(v.number(), v.finite(), v.minValue(0));
const text = v.pipe(v.string(), v.nonEmpty());
const verdict = v.picklist(['ideal', 'good', 'ok', 'poor', 'very poor']);

const purposeCalls = v.strictObject({
  reads: count,
  readBytes: count,
  writes: count,
  writtenBytes: count,
  zeroes: count,
  discards: count,
});

const calls = v.strictObject({
  calls: count,
  bytes: count,
  flushes: count,
  folderCalls: count,
  purposes: v.strictObject({
    data: purposeCalls,
    header: purposeCalls,
    mapping: purposeCalls,
    journal: purposeCalls,
    refcount: purposeCalls,
    snapshot: purposeCalls,
  }),
});

const pairedReads = v.object({ before: v.array(amount), after: v.array(amount), callsAfter: amount });
const beside = axesSchemas(calls, pairedReads);
const cell = { format: text, snapshots: count };
const requests = { ...cell, operations: count, roundMicros: v.array(amount), calls };

export const environmentSchema: v.GenericSchema<unknown, Environment> = v.object({
  node: text,
  platform: text,
  arch: text,
  kernel: text,
  cpu: text,
  cores: count,
  memoryBytes: count,
  fileSystem: text,
  date: v.pipe(v.string(), v.isoTimestamp()),
});

/** Checks a parsed `results.json`. */
export const resultsSchema: v.GenericSchema<unknown, Results> = v.object({
  schema: v.literal('cowlab-bench-results'),
  version: v.picklist(READABLE_VERSIONS),
  environment: environmentSchema,
  seed: count,
  profile: v.record(v.string(), v.unknown()),
  formats: v.array(text),
  durationSeconds: amount,
  goals: v.array(
    v.object({
      goal: v.picklist(['G1', 'G2', 'G3', 'G4', 'G5', 'G6']),
      format: text,
      value: amount,
      measured: text,
      verdict,
      snapshots: v.exactOptional(count),
      claim: v.exactOptional(verdict),
      agreement: v.exactOptional(v.picklist(['agrees', 'better', 'worse'])),
    }),
  ),
  bars: v.array(
    v.object({
      subject: text,
      quantity: text,
      unit: v.picklist(['bytes', 'ms', 'count', 'ratio']),
      value: v.pipe(v.number(), v.finite()),
      relation: v.picklist(['at most', 'at least']),
      limit: amount,
      limitOf: v.string(),
      met: v.boolean(),
    }),
  ),
  reads: v.array(v.object(requests)),
  overwrites: v.array(v.object({ ...requests, pass: v.picklist(['first', 'steady']), flushEvery: count })),
  allocations: v.array(
    v.object({
      ...requests,
      variant: v.picklist(['as is', 'without bookkeeping']),
      how: text,
      residentRefcountBytes: v.exactOptional(count),
    }),
  ),
  sessions: v.array(
    v.object({
      ...cell,
      opening: calls,
      working: calls,
      closing: calls,
      contentsCrc32c: v.exactOptional(count),
      residentMetadataBytes: count,
      residentAfterOverwritesBytes: count,
      counters: v.record(v.string(), v.number()),
    }),
  ),
  opens: v.array(v.object({ ...cell, milliseconds: v.array(amount) })),
  processMemory: v.array(v.object({ ...cell, rssBytes: v.array(count) })),
  snapshotOperations: v.array(
    v.object({
      ...cell,
      operation: v.picklist(['create', 'delete', 'apply']),
      imageBytes: count,
      heldBytes: count,
      samplesMs: v.array(amount),
      medianMs: amount,
      calls,
      countedSamples: v.exactOptional(count),
    }),
  ),
  largeImages: v.array(
    v.object({
      ...cell,
      imageBytes: count,
      storageBytes: count,
      fileBytes: count,
      fileSystem: text,
      openSamplesMs: v.array(amount),
      openMs: amount,
      refcountScanMs: amount,
      opening: calls,
      residentMetadataBytes: count,
      counters: v.record(v.string(), v.number()),
      rssBytes: v.array(count),
    }),
  ),
  idleSnapshots: v.array(
    v.object({
      ...cell,
      imageBytes: count,
      milliseconds: amount,
      grownBytes: count,
      residentBeforeBytes: count,
      residentMetadataBytes: count,
    }),
  ),
  histories: v.array(
    v.object({
      ...cell,
      writesPerSnapshot: count,
      milliseconds: amount,
      calls,
      storageBytesBefore: count,
      storageBytes: count,
      residentMetadataBytes: count,
      randomReads: pairedReads,
      sequentialReads: pairedReads,
    }),
  ),
  growths: v.array(
    v.object({
      pattern: v.picklist(['in place', 'appended', 'recorded']),
      operations: count,
      roundMicros: v.array(amount),
      flushes: count,
    }),
  ),
  // Results from before there were any have none.
  devices: v.optional(
    v.array(
      v.object({
        ...cell,
        device: text,
        depth: count,
        workload: v.picklist(['open', 'read', 'first overwrite', 'steady overwrite', 'create', 'delete']),
        operations: count,
        micros: amount,
      }),
    ),
    [],
  ),
  ablations: v.optional(v.array(beside.ablations), []),
  services: v.optional(v.array(beside.services), []),
  axes: v.optional(v.array(beside.axes), []),
  powerLosses: v.array(
    v.object({ format: text, leaves: v.picklist(['clean', 'leaks']), repairable: v.boolean() }),
  ),
  baseCopies: v.array(
    v.object({
      format: text,
      method: v.picklist(['file copy', 'populate', 'prefetch']),
      bytes: count,
      milliseconds: v.array(amount),
      releaseMs: v.array(amount),
    }),
  ),
  omissions: v.array(v.object({ scenario: text, format: text, reason: text })),
  qemu: v.exactOptional(qemuPartSchema(calls)),
});

/** The results in a parsed JSON value; throws a TypeError that names the first field that is wrong. */
export function parseResults(value: unknown): Results {
  const parsed = v.safeParse(resultsSchema, value);
  if (parsed.success) return parsed.output;
  const [issue] = parsed.issues;
  throw new TypeError(`not the results of a benchmark: ${v.getDotPath(issue) ?? 'file'}: ${issue.message}`);
}
