import type { PartCounts } from '@cowlab/conformance';
import type { Report, Share } from './messages.ts';

/** What one workload of one part came to with one driver. */
export interface Row {
  readonly driver: string;
  readonly part: string;
  readonly workload: string;
  /** `verified`, `duplicates`, and what else the part counts. */
  readonly counts: Record<string, number>;
  violations: number;
}

export interface Problem {
  readonly driver: string;
  readonly part: string;
  readonly message: string;
  /** How to see it again; a process that broke down has no more than its seed. */
  readonly replay: string;
}

/** Violations of one workload that are printed whole; the rest is counted. */
const mostShown = 5;

/** A word as a shell takes it. */
function quoted(text: string): string {
  return /^[\w.,:/@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

function replayOf({ driver, part }: Share, options: Readonly<Record<string, string | number>>): string {
  const all: Record<string, string | number> = { driver, part, ...options };
  const words = Object.entries(all).map(([name, value]) => `--${name} ${quoted(String(value))}`);
  return `npm run lab -- ${words.join(' ')}`;
}

/** Adds up what all shares tell. */
export class Tally {
  readonly problems: Problem[] = [];
  readonly #rows = new Map<string, Row>();
  #violations = 0;
  #broken = 0;

  get rows(): Row[] {
    return [...this.#rows.values()];
  }

  /** Cases that went wrong, and processes that did not come to their end. */
  get failures(): number {
    return this.#violations + this.#broken;
  }

  get verified(): number {
    return this.rows.reduce((sum, { counts }) => sum + (counts['verified'] ?? 0), 0);
  }

  add(share: Share, message: Report): void {
    if (message.kind === 'count') this.#count(share, message.workload, message.counts);
    else if (message.kind === 'violation') {
      const { workload, seed, state } = message.violation;
      this.#violations += 1;
      const row = this.#row(share, workload);
      row.violations += 1;
      if (row.violations > mostShown) return;
      this.#note(share, message.violation.message, { workload, seed, state });
    } else {
      this.#broken += 1;
      const { seed, workload } = share;
      this.#note(share, message.message, { ...(workload !== undefined && { workload }), seed });
    }
  }

  #note(share: Share, message: string, options: Readonly<Record<string, string | number>>): void {
    const { driver, part } = share;
    this.problems.push({ driver, part, message, replay: replayOf(share, options) });
  }

  #count(share: Share, workload: string, counts: PartCounts): void {
    const row = this.#row(share, workload);
    for (const [name, value] of Object.entries(counts)) row.counts[name] = (row.counts[name] ?? 0) + value;
  }

  #row({ driver, part }: Share, workload: string): Row {
    const key = JSON.stringify([driver, part, workload]);
    let row = this.#rows.get(key);
    if (row === undefined) {
      row = { driver, part, workload, counts: { verified: 0, duplicates: 0 }, violations: 0 };
      this.#rows.set(key, row);
    }
    return row;
  }
}
