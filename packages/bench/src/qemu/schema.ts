import * as v from 'valibot';
import { environmentSchema } from '../schema.ts';
import type { Environment } from '../schema.ts';

/*
 * What a run against QEMU leaves in `results.json`. A ratio is QEMU's time ÷ ours in one repetition: 2 means that ours
 * took half as long. `version` rises when a field changes its meaning or goes away.
 */

export const QEMU_RESULTS_VERSION = 1;

/** How fast QEMU was with each way of asynchronous I/O, before anything was compared. */
export interface Setting {
  depth: number;
  /** The fastest: what QEMU runs with at this depth. */
  aio: string;
  tried: ({ aio: string; milliseconds: number } | { aio: string; refused: string })[];
}

/** Of the repetitions. */
export interface Ratio {
  median: number;
  low: number;
  high: number;
}

interface Judged {
  ratio: Ratio;
  /** What the median has to be at least; null for the control. */
  bar: number | null;
  met: boolean;
}

export interface SpeedRow extends Judged {
  format: string;
  operation: 'read' | 'overwrite' | 'allocate' | 'first pass';
  pattern: 'sequential' | 'strided';
  requestBytes: number;
  stepBytes: number;
  depth: number;
  requests: number;
  flushEvery: number;
  /** Milliseconds, a number for each repetition. */
  qemuMs: number[];
  oursMs: number[];
}

export interface CommandRow extends Judged {
  format: string;
  operation: 'create' | 'apply' | 'delete' | 'check';
  imageBytes: number;
  snapshots: number;
  /** `qemu-img`, the whole command. */
  qemuMs: number[];
  /** Open, the operation, close, in this process. */
  oursMs: number[];
  /** `cowlab`, the whole command; empty where it was not there. */
  commandMs: number[];
  commandRatio: Ratio | null;
}

export interface CallCounts {
  reads: number;
  writes: number;
  /** Zeroed or given back: one call each. */
  zeroes: number;
  flushes: number;
}

/** Calls for the writes past the first one, so that opening and closing are in neither number. */
export interface CallRow {
  format: string;
  operation: 'overwrite' | 'allocate' | 'first pass';
  pattern: 'sequential' | 'strided';
  requestBytes: number;
  writes: number;
  flushEvery: number;
  qemu: CallCounts;
  ours: CallCounts;
  /** Neither more calls in all nor more flushes than QEMU. */
  met: boolean;
}

export interface QemuOmission {
  what: string;
  reason: string;
}

export interface QemuResults {
  schema: 'cowlab-bench-qemu-results';
  version: number;
  environment: Environment;
  qemu: string;
  profile: Record<string, unknown>;
  durationSeconds: number;
  settings: Setting[];
  speeds: SpeedRow[];
  commands: CommandRow[];
  calls: CallRow[];
  omissions: QemuOmission[];
}

const count = v.pipe(v.number(), v.integer(), v.minValue(0));
const amount = v.pipe(v.number(), v.finite(), v.minValue(0));
const text = v.pipe(v.string(), v.nonEmpty());
const times = v.pipe(v.array(amount), v.minLength(1));
const ratio = v.strictObject({ median: amount, low: amount, high: amount });
const judged = { ratio, bar: v.nullable(amount), met: v.boolean() };
const pattern = v.picklist(['sequential', 'strided']);
const callCounts = v.strictObject({ reads: count, writes: count, zeroes: count, flushes: count });

/** Checks a parsed `results.json` of a run against QEMU. */
const qemuResultsSchema: v.GenericSchema<unknown, QemuResults> = v.object({
  schema: v.literal('cowlab-bench-qemu-results'),
  version: v.pipe(count, v.value(QEMU_RESULTS_VERSION)),
  environment: environmentSchema,
  qemu: text,
  profile: v.record(v.string(), v.unknown()),
  durationSeconds: amount,
  settings: v.array(
    v.object({
      depth: count,
      aio: text,
      tried: v.array(
        v.union([
          v.strictObject({ aio: text, milliseconds: amount }),
          v.strictObject({ aio: text, refused: text }),
        ]),
      ),
    }),
  ),
  speeds: v.array(
    v.object({
      format: text,
      operation: v.picklist(['read', 'overwrite', 'allocate', 'first pass']),
      pattern,
      requestBytes: count,
      stepBytes: count,
      depth: count,
      requests: count,
      flushEvery: count,
      qemuMs: times,
      oursMs: times,
      ...judged,
    }),
  ),
  commands: v.array(
    v.object({
      format: text,
      operation: v.picklist(['create', 'apply', 'delete', 'check']),
      imageBytes: count,
      snapshots: count,
      qemuMs: times,
      oursMs: times,
      commandMs: v.array(amount),
      commandRatio: v.nullable(ratio),
      ...judged,
    }),
  ),
  calls: v.array(
    v.object({
      format: text,
      operation: v.picklist(['overwrite', 'allocate', 'first pass']),
      pattern,
      requestBytes: count,
      writes: count,
      flushEvery: count,
      qemu: callCounts,
      ours: callCounts,
      met: v.boolean(),
    }),
  ),
  omissions: v.array(v.object({ what: text, reason: text })),
});

/** The results in a parsed JSON value; throws a TypeError that names the first field that is wrong. */
export function parseQemuResults(value: unknown): QemuResults {
  const parsed = v.safeParse(qemuResultsSchema, value);
  if (parsed.success) return parsed.output;
  const [issue] = parsed.issues;
  throw new TypeError(
    `not the results of a run against QEMU: ${v.getDotPath(issue) ?? 'file'}: ${issue.message}`,
  );
}
