import { mkdir } from 'node:fs/promises';
import { deviceModels, FileFolder, MemoryFolder } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { chooseSubjects, formatNames, yardstick } from '../src/formats.ts';
import { measureDevices, measureOnDevices } from '../src/scenarios/devices.ts';
import type { DeviceRow } from '../src/schema.ts';
import { scratch, tiny } from './lab.ts';

const at = scratch();
const subjects = chooseSubjects();
const devices = Object.keys(deviceModels);

function rowsOf(rows: readonly DeviceRow[], wanted: Partial<DeviceRow>): DeviceRow[] {
  return rows.filter((row) =>
    Object.entries(wanted).every(([key, value]) => row[key as keyof DeviceRow] === value),
  );
}

describe.each(subjects)('$name on simulated devices', (subject) => {
  it.each(tiny.deviceSnapshotCounts)(
    'takes the same time to the last bit with files and in memory, at N=%d',
    async (snapshots) => {
      const directory = at(`${subject.name}-${snapshots}`);
      await mkdir(directory);
      const onFiles = await measureOnDevices(new FileFolder(directory), subject, snapshots, tiny, 3);
      expect(await measureOnDevices(new MemoryFolder(), subject, snapshots, tiny, 3)).toEqual(onFiles);
    },
  );
});

describe('simulated devices', () => {
  it('have a row for every format, N, depth and workload', async () => {
    const rows = await measureDevices([yardstick, ...subjects], tiny, 3, () => undefined);
    for (const device of devices) {
      for (const depth of [1, 32]) {
        expect(rowsOf(rows, { device, depth, format: 'raw' }).map(({ workload }) => workload)).toEqual([
          'open',
          'read',
          'first overwrite',
          'steady overwrite',
        ]);
        for (const format of formatNames) {
          for (const snapshots of tiny.deviceSnapshotCounts) {
            expect(rowsOf(rows, { device, depth, format, snapshots })).toHaveLength(6);
          }
        }
      }
    }
    for (const { micros } of rowsOf(rows, { workload: 'read' })) expect(micros).toBeGreaterThan(0);
  });

  it('answer more reads in a time with 32 under way than one by one, but a hard disk not 32 times', async () => {
    const rows = await measureOnDevices(
      new MemoryFolder(),
      yardstick,
      0,
      { ...tiny, deviceOperations: 64 },
      3,
    );
    for (const device of devices) {
      const [one, many] = [1, 32].map(
        (depth) => rowsOf(rows, { device, depth, workload: 'read' })[0]!.micros,
      );
      if (device === 'hdd') expect(many!).toBeGreaterThan(one! / 2);
      else expect(many!).toBeLessThan(one! / 4);
    }
  });
});
