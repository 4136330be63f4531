import type { LongCallOptions } from '@cowlab/core';
import { interruptible } from './interrupt.ts';
import type { Output } from './output.ts';

/** How long work of a verb is shown. */
export interface WorkOptions {
  readonly progress?: boolean;
}

/** Runs work that can be interrupted, with a progress line under `label` when that is asked for. */
export async function underWay<T>(
  output: Output,
  label: string,
  options: WorkOptions,
  work: (call: LongCallOptions) => Promise<T>,
): Promise<T> {
  const progress = options.progress ? output.progress(label) : undefined;
  try {
    return await interruptible((signal) =>
      work({ signal, ...(progress && { onProgress: (each) => progress.update(each) }) }),
    );
  } finally {
    progress?.end();
  }
}
