import type { PartCounts, Violation } from '@cowlab/conformance';

/** One share of one part's work with one driver, for a process of its own. */
export interface Share {
  readonly driver: string;
  readonly part: string;
  readonly seed: number;
  readonly shares: number;
  readonly seconds: number;
  readonly workload?: string;
  readonly state?: string;
}

/** What is to be added up; `failed` is the last of a process that broke down. */
export type Report =
  | { readonly kind: 'count'; readonly workload: string; readonly counts: PartCounts }
  | { readonly kind: 'violation'; readonly violation: Violation }
  | { readonly kind: 'failed'; readonly message: string };

/** What such a process tells: also which case it begins with. */
export type Message = Report | { readonly kind: 'trying'; readonly attempt: Omit<Violation, 'message'> };
