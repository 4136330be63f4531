import type { ErrorCode } from '@cowlab/core';
import type { Layer, Recipe } from './recipe.ts';

/*
 * What our drivers refuse, and with which code. An image that has nothing of this must open; one that has something of
 * it must not, or the line is out of date. A driver that learns a feature takes its line out.
 */

export interface Refusal {
  readonly feature: string;
  /** `read`: an open of any kind; `write`: only one for writing, so what is under an image does not matter. */
  readonly what: 'read' | 'write';
  readonly code: ErrorCode;
  /** Whether some layer has the feature: what is under an image is opened with it. */
  applies(layer: Layer): boolean;
}

function has(name: string, ...values: string[]): (layer: Layer) => boolean {
  return ({ options }) => values.includes(options[name] ?? '');
}

const refusals: readonly Refusal[] = [
  {
    feature: 'streamOptimized',
    what: 'write',
    code: 'ERR_UNSUPPORTED',
    applies: has('subformat', 'streamOptimized'),
  },
];

export function refusalOf({ layers }: Recipe, what: Refusal['what']): Refusal | undefined {
  const concerned = what === 'read' ? layers : layers.slice(-1);
  return refusals.find((each) => each.what === what && concerned.some((layer) => each.applies(layer)));
}
