import { mkdir } from 'node:fs/promises';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { measureAblations } from '../src/axes/ablations.ts';
import { measureAxes, settingsOf } from '../src/axes/axes.ts';
import { measureServices } from '../src/axes/service.ts';
import { chooseSubjects, formatNames, yardstick } from '../src/formats.ts';
import { Lab } from '../src/lab.ts';
import { profiles } from '../src/profiles.ts';
import type { AblationRow, AxisRow, ServiceRow } from '../src/schema.ts';
import { scratch, tiny, tinyOnAllAxes } from './lab.ts';

const at = scratch();
const subjects = chooseSubjects();
const tick = (): void => undefined;

async function inLab<T>(measure: (lab: Lab) => Promise<T>): Promise<T> {
  await mkdir(at('images'), { recursive: true });
  vi.stubEnv('TMPDIR', at('images'));
  const lab = new Lab();
  try {
    return await measure(lab);
  } finally {
    lab.close();
    vi.unstubAllEnvs();
  }
}

describe('FVD without its parts', () => {
  let rows: AblationRow[];
  beforeAll(async () => {
    rows = await inLab((lab) => measureAblations(lab, subjects, tiny, 1, tick));
  }, 60_000);

  const of = (format: string, workload: AblationRow['workload']): AblationRow =>
    rows.find((row) => row.format === format && row.workload === workload)!;

  it('has each part in a row for each workload', () => {
    expect(new Set(rows.map(({ format }) => format)).size).toBe(5);
    expect(rows).toHaveLength(25);
  });

  it('reads and writes refcounts, and has them in memory, only where they are live', () => {
    for (const { format, workload, calls, residentRefcountBytes } of rows) {
      const isSnapshot = workload === 'create' || workload === 'delete';
      const { reads, writes } = calls.purposes.refcount;
      const isLive = format === 'fvd-live-refcounts';
      expect(residentRefcountBytes > 0).toBe(isLive);
      if (workload === 'allocation') expect(writes > 0).toBe(isLive);
      if (!isSnapshot && !isLive) expect(reads + writes).toBe(0);
    }
  });

  it('copies chunks where blocks are not copied', () => {
    const bytes = (format: string): number => of(format, 'first overwrite').calls.purposes.data.writtenBytes;
    const requests = of('fvd', 'first overwrite').operations * tiny.requestBytes;
    expect(bytes('fvd')).toBe(requests);
    expect(bytes('fvd-chunk-copy')).toBeGreaterThan(4 * requests);
  });

  it('is left out where FVD is', async () => {
    const others = chooseSubjects(['qcow2']);
    expect(await inLab((lab) => measureAblations(lab, others, tiny, 1, tick))).toEqual([]);
  });
});

describe('what users ask', () => {
  let rows: ServiceRow[];
  beforeAll(async () => {
    rows = await inLab((lab) => measureServices(lab, subjects, tiny, 1, tick));
  }, 60_000);

  it('is asked of every format', () => {
    expect(rows.map(({ format }) => format)).toEqual(formatNames);
    for (const { openMs, checkMs, checking, snapshotOpenMs, snapshotReads, writing, guestBytes } of rows) {
      for (const times of [openMs, checkMs, snapshotOpenMs]) expect(times).toHaveLength(2);
      expect(checking.calls).toBeGreaterThan(0);
      expect(snapshotReads.before).toHaveLength(snapshotReads.after.length);
      expect(snapshotReads.callsAfter).toBeGreaterThanOrEqual(1);
      expect(writing.purposes.data.writtenBytes).toBeGreaterThanOrEqual(guestBytes);
    }
  });

  it('gives back what a deleted snapshot alone held, most of it, and no more', () => {
    for (const { deletion } of rows) {
      expect(deletion.heldBytes).toBe(1024 * 1024);
      expect(deletion.returnedBytes).toBeGreaterThan(0.9 * deletion.heldBytes);
      expect(deletion.returnedBytes).toBeLessThan(1.25 * deletion.heldBytes);
    }
  });

  it('finds at least what was written different', () => {
    for (const { diff } of rows) expect(diff!.bytes).toBeGreaterThanOrEqual(tiny.requestBytes);
  });
});

describe('the other axes', () => {
  let rows: AxisRow[];
  beforeAll(async () => {
    rows = await inLab((lab) => measureAxes(lab, [yardstick, ...subjects], tinyOnAllAxes, 1, tick));
  }, 60_000);

  it('have a row for every setting, format and direction, each with as many requests', () => {
    const settings = settingsOf(tinyOnAllAxes);
    expect(new Set(settings.map(({ axis }) => axis)).size).toBe(7);
    expect(rows).toHaveLength(settings.length * (1 + formatNames.length) * 2);
    for (const { operations, requestBytes } of rows) {
      expect(operations).toBe(Math.min(32, Math.floor((2 * 1024 * 1024) / requestBytes)));
    }
  });

  it('tell of single requests how long they took, in rising order', () => {
    for (const { latencies } of rows) {
      const micros = latencies.map((each) => each.micros);
      expect(micros).toEqual(micros.toSorted((a, b) => a - b));
      expect(micros[0]).toBeGreaterThan(0);
    }
  });

  it('flush as often as they say', () => {
    const flushes = (setting: string): number[] =>
      rows
        .filter((row) => row.operation === 'write' && row.format === 'raw' && row.setting === setting)
        .map(({ calls }) => calls.flushes);
    expect([flushes('every write'), flushes('one at the end')]).toEqual([[32], [1]]);
  });

  it('are some in the standard profile, all in the full one', () => {
    const [standard, full] = [settingsOf(profiles.standard), settingsOf(profiles.full)];
    expect(standard.length).toBeGreaterThan(5);
    expect(full.length).toBe(settingsOf(tinyOnAllAxes).length);
  });
});
