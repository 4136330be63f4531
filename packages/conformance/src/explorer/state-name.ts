import type { Choice } from './medium.ts';

/*
 * The name of a state: where the power failed, how many name changes were kept, and which sectors, four to a
 * hexadecimal digit, or `all` or `none`: `17.0.3f`. A state of the recovery from another is named after it:
 * `17.0.3f/4.0.all`.
 */

export interface Moment {
  readonly position: number;
  readonly choice: Choice;
}

export function nameOf({ position, choice: { names, kept } }: Moment): string {
  const all = kept.every(Boolean);
  if (all || !kept.includes(true)) return `${position}.${names}.${all ? 'all' : 'none'}`;
  let digits = '';
  for (let at = 0; at < kept.length; at += 4) {
    const four = kept.slice(at, at + 4).map(Number);
    digits += (four[0]! | ((four[1] ?? 0) << 1) | ((four[2] ?? 0) << 2) | ((four[3] ?? 0) << 3)).toString(16);
  }
  return `${position}.${names}.${digits}`;
}

/** The choice that a name stands for, among `units`. */
export function momentOf(name: string): { position: number; choiceOf: (units: number) => Choice } {
  const match = /^(\d+)\.(\d+)\.(all|none|[\da-f]+)$/.exec(name);
  if (match === null) throw new TypeError(`${name} is no name of a state`);
  const kept = match[3]!;
  const isKept = (unit: number): boolean => {
    if (kept === 'all' || kept === 'none') return kept === 'all';
    return ((Number.parseInt(kept[unit >> 2] ?? '0', 16) >> (unit & 3)) & 1) === 1;
  };
  return {
    position: Number(match[1]),
    choiceOf: (units) => ({
      names: Number(match[2]),
      kept: Array.from({ length: units }, (_, unit) => isKept(unit)),
    }),
  };
}
