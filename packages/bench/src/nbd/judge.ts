import { pairedRatio } from '../statistics.ts';
import type { Beside, RequestRow } from './schema.ts';

/* What ours has to reach beside the others. Everything that is asked for is here. */

export const QEMU_NBD = 'qemu-nbd';
export const NBDKIT_FILE = 'nbdkit file';

type Request = Pick<RequestRow, 'operation' | 'pattern' | 'depth'>;

/** Twice as fast as qemu-nbd, but at depth 1, where a round trip through the kernel counts, as fast. */
function barBesideQemu({ pattern, depth }: Request): number {
  return pattern === 'random' && depth === 1 ? 1 : 2;
}

/** nbdkit has no format under it: what is asked of FVD is to be as fast as without one. */
function barBesideNbdkit(format: string, { operation, pattern, depth }: Request): number | null {
  if (format !== 'fvd') return null;
  return pattern === 'sequential' || (operation === 'read' && depth > 1) ? 1 : null;
}

export function barOf(format: string, peer: string, request: Request): number | null {
  return peer === QEMU_NBD ? barBesideQemu(request) : barBesideNbdkit(format, request);
}

/** Of samples by round; the ratio is the first ÷ the second, so that more than 1 means that ours is ahead. */
export function beside(
  peer: string,
  numerators: readonly number[],
  denominators: readonly number[],
  bar: number | null,
): Beside {
  const ratio = pairedRatio(numerators, denominators);
  return { peer, ratio: { ...ratio }, bar, met: bar === null || ratio.median >= bar };
}
