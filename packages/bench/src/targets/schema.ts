import * as v from 'valibot';
import type { Calls } from '../schema.ts';

/* What `results.json` holds of QEMU beside the rows that it has among those of our drivers. */

/** One opening of QEMU's for reads and overwrites, counted. */
export interface QemuSessionRow {
  format: string;
  snapshots: number;
  opening: Calls;
  closing: Calls;
  /** Requests whose bytes were compared with what they had to be; they were, or the run had failed. */
  comparedRequests: number;
}

/** How one number goes with N, ours beside QEMU's. */
export interface TrendRow {
  format: string;
  original: string;
  quantity: string;
  /** `ratio`: what it is at N, against what it was. `bytes`: by how much it grew. */
  unit: 'ratio' | 'bytes';
  /** From the smallest N that both have to the largest of QEMU's that ours has, or goes beyond. */
  fromSnapshots: number;
  snapshots: number;
  /** Ours has no image at that N: its law says what it is there. */
  byLaw: boolean;
  ours: number;
  originals: number;
  /** How each goes with all of its N. */
  oursOrder: string;
  originalsOrder: string;
  /** Ours does as the original does, or goes up less, or more; or times vary too much to tell. */
  agreement: 'agrees' | 'better' | 'worse' | 'unsure';
}

export interface QemuPart {
  /** Of QEMU. */
  version: string;
  /** The name under which raw through QEMU itself runs along. */
  yardstick: string;
  /** What is taken off the times of processes: the least that one takes which does nothing. */
  starts: { qemuIoMs: number; qemuImgMs: number };
  sessions: QemuSessionRow[];
  trends: TrendRow[];
}

const count = v.pipe(v.number(), v.integer(), v.minValue(0));
const amount = v.pipe(v.number(), v.finite(), v.minValue(0));
const text = v.pipe(v.string(), v.nonEmpty());

export function qemuPartSchema(calls: v.GenericSchema<unknown, Calls>): v.GenericSchema<unknown, QemuPart> {
  return v.object({
    version: text,
    yardstick: text,
    starts: v.object({ qemuIoMs: amount, qemuImgMs: amount }),
    sessions: v.array(
      v.object({ format: text, snapshots: count, opening: calls, closing: calls, comparedRequests: count }),
    ),
    trends: v.array(
      v.object({
        format: text,
        original: text,
        quantity: text,
        unit: v.picklist(['ratio', 'bytes']),
        fromSnapshots: count,
        snapshots: count,
        byLaw: v.boolean(),
        ours: v.pipe(v.number(), v.finite()),
        originals: v.pipe(v.number(), v.finite()),
        oursOrder: text,
        originalsOrder: text,
        agreement: v.picklist(['agrees', 'better', 'worse', 'unsure']),
      }),
    ),
  });
}
