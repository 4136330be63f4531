import type { Capabilities } from '@cowlab/core';
import type { ConformanceSubject } from './subject.ts';

/*
 * The seam between a way of trying drivers out at length (power loss, faults, races, …) and whoever runs it: a
 * part is given a driver, a seed and some time, and tells what it tried and what it found. It knows nothing of
 * processes, arguments and printing; `npm run lab` knows nothing of what a state is.
 */

/** What was tried since the last report; a part adds counts of its own, under names that say what they are. */
export interface PartCounts {
  /** Cases tried and found right that no other case of this share was equal to. */
  readonly verified: number;
  /** Cases left out because an equal one had been tried. */
  readonly duplicates: number;
  readonly [name: string]: number;
}

/** A case that went wrong. `workload`, `seed` and `state` together say which, on every machine. */
export interface Violation {
  readonly workload: string;
  readonly seed: number;
  /** The part's own name of the case; without white space. */
  readonly state: string;
  readonly message: string;
}

/** One share of a part's work with one driver. */
export interface PartContext {
  /** The driver, once with each set of create options that is worth a try; at least one. A seed chooses. */
  readonly subjects: readonly ConformanceSubject[];
  /** What this share starts with; it goes on with seeds of its own: `seed + shares`, `seed + 2 × shares`, … */
  readonly seed: number;
  readonly shares: number;
  /** The only workload to run; all that the capabilities allow when left out. */
  readonly workload?: string;
  /** The only case to run, with this seed: a replay. */
  readonly state?: string;
  /** False when it is time to end; asked between any two cases. */
  hasTime(): boolean;
  /** The part of the share's time that is gone, 0 … 1. */
  timeUsed(): number;
  count(workload: string, counts: PartCounts): void;
  /** The case that begins now: one that never ends is known by it. */
  trying?(attempt: Omit<Violation, 'message'>): void;
  violation(violation: Violation): void;
}

export interface LabPart {
  readonly name: string;
  /** What it does with drivers of these capabilities, by name; empty where it does not apply. */
  workloads(capabilities: Capabilities): readonly string[];
  run(context: PartContext): Promise<void>;
}
