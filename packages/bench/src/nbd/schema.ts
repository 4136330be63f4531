import * as v from 'valibot';
import { type Environment, environmentSchema } from '../schema.ts';
import type { Interval } from '../statistics.ts';

/*
 * What a run of the NBD benchmark leaves in `results.json`. A ratio above 1 means that ours was faster. `version` rises
 * when a field changes its meaning or goes away.
 */

export const NBD_RESULTS_VERSION = 1;

/** How many times as fast as somebody else, by pairs of one round: the median, and its 95 % interval. */
export interface Beside {
  peer: string;
  ratio: Interval;
  /** What the median has to be at least; null where nothing is asked for. */
  bar: number | null;
  met: boolean;
}

/** One kind of request to one server. */
export interface RequestRow {
  server: string;
  /** Ours are compared, the others are what ours are compared with. */
  ours: boolean;
  operation: 'read' | 'write';
  pattern: 'random' | 'sequential';
  requestBytes: number;
  depth: number;
  /** Requests a second, a number for each round. */
  perSecond: number[];
  beside: Beside[];
}

export interface ConversionRow {
  from: string;
  to: string;
  content: 'data' | 'empty';
  diskBytes: number;
  /** What QEMU was asked to convert. */
  peer: string;
  /** Milliseconds, a number for each round: `qemu-img`, whole. */
  qemuMs: number[];
  /** In a process that runs already. */
  oursMs: number[];
  /** `cowlab`, whole; empty where it was not there. */
  commandMs: number[];
  beside: Beside | null;
  commandBeside: Beside | null;
}

export interface NbdResults {
  schema: 'cowlab-bench-nbd-results';
  version: number;
  environment: Environment;
  /** Programs that took part, with their versions. */
  tools: Record<string, string>;
  profile: Record<string, unknown>;
  durationSeconds: number;
  requests: RequestRow[];
  conversions: ConversionRow[];
}

const count = v.pipe(v.number(), v.integer(), v.minValue(0));
const amount = v.pipe(v.number(), v.finite(), v.minValue(0));
const text = v.pipe(v.string(), v.nonEmpty());
const samples = v.array(amount);
const beside = v.strictObject({
  peer: text,
  ratio: v.strictObject({ low: amount, median: amount, high: amount }),
  bar: v.nullable(amount),
  met: v.boolean(),
});

const nbdResultsSchema: v.GenericSchema<unknown, NbdResults> = v.object({
  schema: v.literal('cowlab-bench-nbd-results'),
  version: v.pipe(count, v.value(NBD_RESULTS_VERSION)),
  environment: environmentSchema,
  tools: v.record(text, text),
  profile: v.record(v.string(), v.unknown()),
  durationSeconds: amount,
  requests: v.array(
    v.object({
      server: text,
      ours: v.boolean(),
      operation: v.picklist(['read', 'write']),
      pattern: v.picklist(['random', 'sequential']),
      requestBytes: count,
      depth: count,
      perSecond: v.pipe(samples, v.minLength(1)),
      beside: v.array(beside),
    }),
  ),
  conversions: v.array(
    v.object({
      from: text,
      to: text,
      content: v.picklist(['data', 'empty']),
      diskBytes: count,
      peer: text,
      qemuMs: v.pipe(samples, v.minLength(1)),
      oursMs: samples,
      commandMs: samples,
      beside: v.nullable(beside),
      commandBeside: v.nullable(beside),
    }),
  ),
});

/** The results in a parsed JSON value; throws a TypeError that names the first field that is wrong. */
export function parseNbdResults(value: unknown): NbdResults {
  const parsed = v.safeParse(nbdResultsSchema, value);
  if (parsed.success) return parsed.output;
  const [issue] = parsed.issues;
  throw new TypeError(
    `not the results of the NBD benchmark: ${v.getDotPath(issue) ?? 'file'}: ${issue.message}`,
  );
}
