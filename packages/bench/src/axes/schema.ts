import * as v from 'valibot';
import type { Calls, PairedReads, RequestRow } from '../schema.ts';

/* The rows of what a run measures beside the goals. */

/** FVD as it is, and without a part of it: what that part is worth. */
export interface AblationRow extends RequestRow {
  workload: 'allocation' | 'first overwrite' | 'steady overwrite' | 'create' | 'delete';
  imageBytes: number;
  /** Afterwards. */
  residentMetadataBytes: number;
  residentRefcountBytes: number;
}

/** What users ask of an image with snapshots, some random writes before each. */
export interface ServiceRow {
  format: string;
  snapshots: number;
  /** Of the disk that were written between the snapshots, and what that came to. */
  guestBytes: number;
  writing: Calls;
  openMs: number[];
  checkMs: number[];
  /** Of one check. */
  checking: Calls;
  /** Opening the first snapshot, and random reads of it beside the same of the disk, in paired rounds. */
  snapshotOpenMs: number[];
  snapshotReads: PairedReads;
  /** What differs between the first snapshot and the disk, told from metadata; absent where the format cannot. */
  diff?: { milliseconds: number[]; calls: Calls; bytes: number };
  /** A snapshot is deleted that alone holds so many bytes: how many the host has back. */
  deletion: { heldBytes: number; returnedBytes: number; milliseconds: number };
}

/** Requests to a real file, one axis at a time away from the centre. */
export interface AxisRow extends RequestRow {
  axis: string;
  /** What is different from the centre. */
  setting: string;
  operation: 'read' | 'write';
  pattern: 'sequential' | 'random' | 'zipf';
  requestBytes: number;
  depth: number;
  /** Writes between two flushes; 0: one at the end. */
  flushEvery: number;
  mappedShare: number;
  imageBytes: number;
  /** Of single requests: the share of them that took no longer. */
  latencies: { share: number; micros: number }[];
}

const count = v.pipe(v.number(), v.integer(), v.minValue(0));
const amount = v.pipe(v.number(), v.finite(), v.minValue(0));
const text = v.pipe(v.string(), v.nonEmpty());
const times = v.array(amount);

type RowSchemas = {
  ablations: v.GenericSchema<unknown, AblationRow>;
  services: v.GenericSchema<unknown, ServiceRow>;
  axes: v.GenericSchema<unknown, AxisRow>;
};

export function axesSchemas(
  calls: v.GenericSchema<unknown, Calls>,
  pairedReads: v.GenericSchema<unknown, PairedReads>,
): RowSchemas {
  const requests = { format: text, snapshots: count, operations: count, roundMicros: times, calls };
  return {
    ablations: v.object({
      ...requests,
      workload: v.picklist(['allocation', 'first overwrite', 'steady overwrite', 'create', 'delete']),
      imageBytes: count,
      residentMetadataBytes: count,
      residentRefcountBytes: count,
    }),
    services: v.object({
      format: text,
      snapshots: count,
      guestBytes: count,
      writing: calls,
      openMs: times,
      checkMs: times,
      checking: calls,
      snapshotOpenMs: times,
      snapshotReads: pairedReads,
      diff: v.exactOptional(v.object({ milliseconds: times, calls, bytes: count })),
      deletion: v.object({
        heldBytes: count,
        returnedBytes: v.pipe(v.number(), v.integer()),
        milliseconds: amount,
      }),
    }),
    axes: v.object({
      ...requests,
      axis: text,
      setting: text,
      operation: v.picklist(['read', 'write']),
      pattern: v.picklist(['sequential', 'random', 'zipf']),
      requestBytes: count,
      depth: count,
      flushEvery: count,
      mappedShare: amount,
      imageBytes: count,
      latencies: v.array(v.object({ share: amount, micros: amount })),
    }),
  };
}
