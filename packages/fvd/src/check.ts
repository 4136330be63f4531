import { type CheckOptions, type CheckReport, type Finding, isCowlabError } from '@cowlab/core';
import type { FvdImage } from './image.ts';
import { readState } from './tree.ts';
import { reachedBy } from './snapshots.ts';

/*
 * Recomputes what every state reaches, from the roots up, and compares it with the static counts. The front has been
 * compared when it was opened: the free bitmap is made from it, so it has no bookkeeping of its own to be wrong.
 */

const MAX_FINDINGS = 1000;

export async function checkImage(image: FvdImage, options: CheckOptions): Promise<CheckReport> {
  const findings: Finding[] = [];
  const totals = { corruption: 0, leak: 0, repaired: 0 };
  const report = (
    severity: Finding['severity'],
    structure: string,
    message: string,
    repaired = false,
  ): void => {
    if (repaired) totals.repaired++;
    else totals[severity]++;
    if (findings.length < MAX_FINDINGS) {
      findings.push({ severity, structure, message, file: image.storage.name, repaired });
    }
  };
  const { counts, directory } = await image.snapshots.readCatalog();
  const { hostChunks } = image.publisher.superblock;
  const expected = new Uint16Array(Math.max(hostChunks, counts.length));
  let done = 0;
  for (const snapshot of directory.snapshots) {
    options.signal?.throwIfAborted();
    try {
      const state = await readState(image.storage, snapshot.root, snapshot.size, image.geometry, hostChunks);
      for (const chunk of reachedBy(image, state)) expected[chunk]!++;
    } catch (error) {
      if (!isCowlabError(error, 'ERR_CORRUPT')) throw error;
      report('corruption', 'snapshot', `${JSON.stringify(snapshot.name)}: ${error.message}`);
    }
    done++;
    options.onProgress?.({ done, total: directory.snapshots.length });
  }
  const repair = options.repair !== undefined && totals.corruption === 0;
  let wrong = 0;
  expected.forEach((count, chunk) => {
    const recorded = counts[chunk] ?? 0;
    if (count === recorded) return;
    wrong++;
    const message = `host chunk ${chunk} is counted ${recorded} times, reached by ${count} snapshots`;
    report(recorded > count ? 'leak' : 'corruption', 'refcount', message, repair);
  });
  if (repair && wrong > 0) await image.publish({ catalog: async () => ({ directory, counts: expected }) });
  return {
    corruptions: totals.corruption,
    leaks: totals.leak,
    repaired: totals.repaired,
    findings,
    allocatedBytes: allocatedBytes(image),
    imageEndBytes: hostChunks * image.geometry.chunkBytes,
  };
}

function allocatedBytes(image: FvdImage): number {
  const { table } = image.state;
  let blocks = 0;
  for (let chunk = 0; chunk < table.chunks; chunk++) {
    table.eachRun(chunk, (_start, count, host) => {
      if (host > 1) blocks += count;
    });
  }
  return Math.min(image.size, blocks * image.geometry.blockBytes);
}
