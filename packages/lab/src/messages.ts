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

/** What such a process tells; `failed` is the last of one that broke down. */
export type Message =
  | { readonly kind: 'count'; readonly workload: string; readonly counts: PartCounts }
  | { readonly kind: 'violation'; readonly violation: Violation }
  | { readonly kind: 'failed'; readonly message: string };
