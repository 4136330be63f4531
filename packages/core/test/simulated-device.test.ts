import fs from 'node:fs';
import path from 'node:path';
import { assert as assertProperty, integer, property } from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type DeviceModel,
  deviceModels,
  FileFolder,
  MemoryFolder,
  SimulatedDevice,
  SimulatedFolder,
  type StorageFolder,
} from '../src/index.ts';
import { scratchFolder } from './scratch.ts';

const scratch = scratchFolder();
const models = Object.entries(deviceModels);
const KIB = 1024;

/** How long `work` takes on the device's clock. */
function took(device: SimulatedDevice, work: () => void): number {
  const before = device.nowMicros;
  work();
  return device.nowMicros - before;
}

describe.each(models)('the simulated %s', (_, model) => {
  it('takes longer for more bytes, and time never goes back', () => {
    assertProperty(
      property(integer({ min: 1, max: 1 << 20 }), integer({ min: 1, max: 1 << 20 }), (length, more) => {
        const [one, other] = [new SimulatedDevice(model), new SimulatedDevice(model)];
        const short = took(one, () => one.read(4096, length));
        expect(short).toBeGreaterThan(0);
        expect(took(other, () => other.read(4096, length + more))).toBeGreaterThan(short);
      }),
    );
  });

  it('takes a write at once or at the flush, but no less time than the medium needs', () => {
    const device = new SimulatedDevice(model);
    const bytes = 8 * 1024 * KIB;
    const whole = took(device, () => {
      for (let at = 0; at < bytes; at += 4 * KIB) device.write(at, 4 * KIB);
      device.flush();
    });
    expect(whole).toBeGreaterThan(bytes / (model.channelBytesPerMicro * model.channels));
  });

  it('has no more to do after a flush than a flush of nothing', () => {
    const device = new SimulatedDevice(model);
    device.write(0, 64 * KIB);
    device.flush();
    expect(took(device, () => device.flush())).toBeCloseTo(model.commandMicros + model.flushMicros, 9);
  });
});

describe.each(models.filter(([, { head }]) => head === undefined))('the simulated %s', (_, model) => {
  it('works on as many reads at once as it has channels, and no more', () => {
    const together = (reads: number): number => {
      const device = new SimulatedDevice(model);
      let last = 0;
      for (let nth = 0; nth < reads; nth += 1) {
        device.at(0);
        device.read(nth * 1024 * KIB, 4 * KIB);
        last = Math.max(last, device.nowMicros);
      }
      return last;
    };
    expect(together(model.channels)).toBe(together(1));
    expect(together(model.channels + 1)).toBeGreaterThan(together(1));
  });
});

describe('a head', () => {
  const far = 2 ** 41;

  it('finds the next byte under it, and is longer under way the further it has to go', () => {
    const from = (address: number): number => {
      const device = new SimulatedDevice(deviceModels.hdd);
      device.read(0, 4 * KIB);
      return took(device, () => device.read(address, 4 * KIB));
    };
    const distances = [4 * KIB, 8 * KIB, 2 ** 30, far].map(from);
    expect(distances).toEqual(distances.toSorted((a, b) => a - b));
    expect(distances[0]!).toBeLessThan(distances[1]! / 10);
  });

  it('visits what the cache holds in the order of the disk, whatever order it came in', () => {
    const order = (addresses: readonly number[]): number => {
      const device = new SimulatedDevice(deviceModels.hdd);
      for (const address of addresses) device.write(address, 4 * KIB);
      device.flush();
      return device.nowMicros;
    };
    const rising = Array.from({ length: 16 }, (_, nth) => nth * 1024 * KIB);
    const mixed = rising.map((_, nth) => rising[(nth * 7) % rising.length]!);
    expect(order(mixed)).toBe(order(rising));
  });
});

/** Some requests to files of a folder on a device of each kind; the clocks afterwards. */
async function history(inner: StorageFolder, kinds: readonly DeviceModel[]): Promise<number[]> {
  const folder = new SimulatedFolder(
    inner,
    kinds.map((model) => new SimulatedDevice(model)),
  );
  const a = await folder.create('a');
  await a.write(0, new Uint8Array(100_000).fill(1));
  await a.flush();
  await folder.link('a', 'b');
  const b = await folder.create('c');
  await b.write(5000, new Uint8Array(10));
  await folder.rename('c', 'a');
  const again = await folder.open('b', { readOnly: true });
  const bytes = new Uint8Array(3);
  await again.read(99_998, bytes);
  expect([...bytes]).toEqual([1, 1, 0]);
  await b.zero(0, 4096);
  await b.discard(0, 4096);
  await b.truncate(100);
  await folder.remove('b');
  await folder.flush();
  for (const storage of [a, b, again]) await storage.close();
  return folder.devices.map(({ nowMicros }) => nowMicros);
}

describe('a folder on a simulated device', () => {
  it('takes the same time to the last bit, whatever holds the bytes', async () => {
    const directory = path.join(scratch, 'files');
    fs.mkdirSync(directory);
    const all = Object.values(deviceModels);
    const onFiles = await history(new FileFolder(directory), all);
    expect(Math.min(...onFiles)).toBeGreaterThan(0);
    expect(await history(new MemoryFolder(), all)).toEqual(onFiles);
  });

  it.each(models)('times the %s beside others as it does alone', async (_, model) => {
    const [beside] = await history(new MemoryFolder(), [model, ...Object.values(deviceModels)]);
    expect(await history(new MemoryFolder(), [model])).toEqual([beside]);
  });

  it('keeps the place of a file that gets another name', async () => {
    const read = async (rename: boolean): Promise<number> => {
      const device = new SimulatedDevice(deviceModels.hdd);
      const folder = new SimulatedFolder(new MemoryFolder(), [device]);
      await (await folder.create('other')).close();
      const file = await folder.create('a');
      await file.write(0, new Uint8Array(4096));
      await file.flush();
      if (rename) await folder.rename('a', 'b');
      const opened = await folder.open(rename ? 'b' : 'a', { readOnly: true });
      const before = device.nowMicros;
      await opened.read(4096, new Uint8Array(1));
      return device.nowMicros - before;
    };
    expect(await read(true)).toBe(await read(false));
  });
});
