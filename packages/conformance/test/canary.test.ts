import {
  type Awaitable,
  type BlockDriver,
  type DiffBatch,
  type DriverImage,
  type DriverSnapshots,
  type Extent,
  type Placement,
  raw,
  type Storage,
  type StorageFolder,
} from '@cowlab/core';
import { expect, it } from 'vitest';
import {
  groups,
  InterceptedFolder,
  modelRun,
  runScenario,
  scenariosFor,
  type StorageCall,
} from '../src/index.ts';
import { copying } from './copying-driver.ts';
import { mapping } from './mapping-driver.ts';

/*
 * A suite that never fails proves nothing. Each driver here has one defect; the group named beside it, and the
 * model run where it can, have to find it.
 */

const seed = 20_261_101;
const place = 'memory';

type Spoil = (call: StorageCall, run: () => Awaitable<unknown>, count: number) => Awaitable<unknown>;

/** A folder where some calls do not do what they say. */
class SpoiltFolder extends InterceptedFolder {
  readonly #spoil: Spoil;
  #count = 0;

  constructor(inner: StorageFolder, spoil: Spoil) {
    super(inner);
    this.#spoil = spoil;
  }

  override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
    this.#count += 1;
    return this.#spoil(call, run, this.#count) as Awaitable<T>;
  }
}

function overSpoiltFolder(driver: BlockDriver, spoil: Spoil): BlockDriver {
  return {
    ...driver,
    open: (folder, file, context) => driver.open(new SpoiltFolder(folder, spoil), file, context),
  };
}

const unless = (lost: (call: StorageCall, count: number) => boolean): Spoil => {
  return (call, run, count) => (lost(call, count) ? undefined : run());
};

/** Writes by reading a page, changing it, and writing it back: whoever writes beside it is overwritten. */
function racing(storage: Storage): Storage {
  const write = async (offset: number, source: Uint8Array): Promise<void> => {
    const start = Math.max(512, offset - 4096);
    const page = new Uint8Array(Math.min(storage.size(), offset + source.length + 4096) - start);
    await storage.read(start, page);
    page.set(source, offset - start);
    await storage.write(start, page);
  };
  return new Proxy(storage, {
    get(target, key): unknown {
      if (key === 'write') return write;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

/** The object with some members replaced. */
function spoilt<T extends object>(object: T, members: Partial<T>): T {
  return new Proxy(object, {
    get(target, key): unknown {
      if (Object.hasOwn(members, key)) return Reflect.get(members, key);
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

function snapshotsOf(image: DriverImage): DriverSnapshots {
  if (image.snapshots === undefined) throw new TypeError('an image without snapshots');
  return image.snapshots;
}

function withRaces(image: DriverImage): DriverImage {
  const map = async (offset: number, length: number): Promise<Extent> => {
    const extent = await image.map(offset, length);
    return extent.kind === 'data' ? { ...extent, storage: racing(extent.storage) } : extent;
  };
  return spoilt(image, { map });
}

function withoutTails(image: DriverImage): DriverImage {
  const reserve = async (offset: number, length: number): Promise<Placement> => ({
    ...(await image.reserve(offset, length)),
    tail: 0,
  });
  return spoilt(image, { reserve });
}

/** The name of the backing is gone, durably, and only then comes the rest of a release. */
async function releaseTooSoon(folder: StorageFolder, file: string, image: DriverImage): Promise<void> {
  const storage = await folder.open(file, { readOnly: false });
  await storage.write(12, new Uint8Array(2), 'header');
  await storage.flush();
  await storage.close();
  await image.releaseBacking?.();
}

/** Another backing is named, durably, and only then comes the rest. */
async function changeTooSoon(
  folder: StorageFolder,
  file: string,
  image: DriverImage,
  ...[reference, backing]: Parameters<NonNullable<DriverImage['changeBacking']>>
): Promise<void> {
  const text = new TextEncoder().encode(reference && `${reference.format ?? ''}:${reference.file}`);
  const named = new Uint8Array(2 + text.length);
  new DataView(named.buffer).setUint16(0, text.length);
  named.set(text, 2);
  const storage = await folder.open(file, { readOnly: false });
  await storage.write(12, named, 'header');
  await storage.flush();
  await storage.close();
  await image.changeBacking?.(reference, backing);
}

/** Opens like `driver`, and leaves a mark in the file even when it must not write. */
function marking(driver: BlockDriver): BlockDriver {
  return {
    ...driver,
    open: async (folder, file, context) => {
      const storage = await folder.open(file, { readOnly: false });
      await storage.write(storage.size() - 1, Uint8Array.of(0x55));
      await storage.close();
      return driver.open(folder, file, context);
    },
  };
}

/** A driver whose answers to `diff` are changed. */
function withDiff(change: (batch: DiffBatch, offset: number) => DiffBatch): BlockDriver {
  return {
    ...copying,
    open: async (...call) => {
      const image = await copying.open(...call);
      const snapshots = snapshotsOf(image);
      const diff: DriverSnapshots['diff'] = async (from, to, offset, end) =>
        change(await snapshots.diff!(from, to, offset, end), offset);
      return spoilt(image, { snapshots: spoilt(snapshots, { diff }) });
    },
  };
}

interface Defect {
  readonly name: string;
  readonly driver: BlockDriver;
  readonly group: string;
  /** The model run cannot see what only shows between two calls, or after a failure. */
  readonly model: boolean;
}

const isSnapshotFile = ({ file }: StorageCall): boolean => file.endsWith('.part');

const defects: readonly Defect[] = [
  {
    name: 'loses a write now and then',
    driver: overSpoiltFolder(
      raw,
      unless(({ method }, count) => method === 'write' && count % 5 === 0),
    ),
    group: 'reads and writes',
    model: true,
  },
  {
    name: 'writes only half of what crosses a page',
    driver: overSpoiltFolder(raw, (call, run) => {
      const crosses = call.offset % 4096 > 0 && (call.offset % 4096) + call.length > 4096;
      return crosses && call.writePart ? call.writePart(call.length >> 1) : run();
    }),
    group: 'reads and writes',
    model: true,
  },
  {
    name: 'zeroes nothing',
    driver: overSpoiltFolder(
      raw,
      unless(({ method }) => method === 'zero'),
    ),
    group: 'zeroes',
    model: true,
  },
  {
    name: 'discards nothing',
    driver: overSpoiltFolder(
      raw,
      unless(({ method }) => method === 'zero'),
    ),
    group: 'discard',
    model: true,
  },
  {
    name: 'makes nothing durable',
    driver: overSpoiltFolder(
      raw,
      unless(({ method }) => method === 'flush'),
    ),
    group: 'flush',
    model: false,
  },
  {
    name: 'leaves out a flush now and then',
    driver: overSpoiltFolder(
      mapping,
      unless(({ method }, count) => method === 'flush' && count % 2 === 0),
    ),
    group: 'power loss',
    model: false,
  },
  {
    name: 'leaves the names of its files to chance',
    driver: overSpoiltFolder(copying, (call, run) =>
      call.method === 'flushFolder' ? Promise.resolve() : run(),
    ),
    group: 'power loss',
    model: false,
  },
  {
    name: 'keeps errors to itself',
    driver: overSpoiltFolder(copying, async (call, run) => {
      try {
        return await run();
      } catch (error) {
        if (call.method !== 'write' && call.method !== 'flush') throw error;
      }
    }),
    group: 'faults',
    model: false,
  },
  {
    name: 'never closes a file',
    driver: overSpoiltFolder(
      copying,
      unless(({ method }) => method === 'close'),
    ),
    group: 'lifecycle',
    model: false,
  },
  {
    name: 'takes any file for its own',
    driver: { ...copying, open: (folder, file, context) => raw.open(folder, file, context) },
    group: 'damaged images',
    model: false,
  },
  {
    name: 'lets writes side by side undo each other',
    driver: { ...raw, open: async (...call) => withRaces(await raw.open(...call)) },
    group: 'concurrency',
    model: false,
  },
  {
    name: 'lets writes side by side undo each other',
    driver: { ...raw, open: async (...call) => withRaces(await raw.open(...call)) },
    group: 'races',
    model: false,
  },
  {
    name: 'loses one write of many that are under way',
    driver: overSpoiltFolder(
      raw,
      unless(({ method }, count) => method === 'write' && count % 97 === 0),
    ),
    group: 'races',
    model: false,
  },
  {
    name: 'copies nothing behind a partial write',
    driver: { ...mapping, open: async (...call) => withoutTails(await mapping.open(...call)) },
    group: 'backing',
    model: false,
  },
  {
    name: 'lets go of its backing before it has what it needs',
    driver: {
      ...mapping,
      open: async (folder, file, context) => {
        const image = await mapping.open(folder, file, context);
        return spoilt(image, { releaseBacking: () => releaseTooSoon(folder, file, image) });
      },
    },
    group: 'power loss',
    model: false,
  },
  {
    name: 'names another backing before it has what it needs',
    driver: {
      ...mapping,
      open: async (folder, file, context) => {
        const image = await mapping.open(folder, file, context);
        // What was copied is made durable by the change, and not before.
        return spoilt(image, {
          flush: () => undefined,
          changeBacking: (...to) => changeTooSoon(folder, file, image, ...to),
        });
      },
    },
    group: 'power loss',
    model: false,
  },
  {
    name: 'changes the name of its backing alone',
    driver: {
      ...mapping,
      open: async (...call) => {
        const image = await mapping.open(...call);
        return spoilt(image, { changeBacking: async (_, backing) => backing?.close() });
      },
    },
    group: 'rebase',
    model: false,
  },
  {
    name: 'leaves zeros to its backing',
    driver: {
      ...mapping,
      open: async (...call) => spoilt(await mapping.open(...call), { unmap: () => undefined }),
    },
    group: 'local copies of a backing',
    model: false,
  },
  {
    name: 'forgets what it has mapped',
    driver: overSpoiltFolder(
      mapping,
      unless(({ method, purpose }) => method === 'write' && purpose === 'mapping'),
    ),
    group: 'reopen',
    model: true,
  },
  {
    name: 'writes when it is opened read-only',
    driver: marking(copying),
    group: 'read-only',
    model: false,
  },
  {
    name: 'grows only until it is closed',
    driver: overSpoiltFolder(
      raw,
      unless(({ method }) => method === 'truncate'),
    ),
    group: 'resize',
    model: true,
  },
  {
    name: 'applies another snapshot than it is told',
    driver: {
      ...copying,
      open: async (...call) => {
        const image = await copying.open(...call);
        const apply: DriverSnapshots['apply'] = async (_id, options) => {
          const [first] = await snapshotsOf(image).list();
          if (first !== undefined) await snapshotsOf(image).apply(first.id, options);
        };
        return spoilt(image, { snapshots: spoilt(snapshotsOf(image), { apply }) });
      },
    },
    group: 'snapshots',
    model: true,
  },
  {
    name: 'keeps half of the bytes in a snapshot',
    driver: overSpoiltFolder(copying, (call, run) =>
      isSnapshotFile(call) && call.writePart ? call.writePart(call.length >> 1) : run(),
    ),
    group: 'snapshots',
    model: true,
  },
  {
    name: 'deletes no snapshot',
    driver: overSpoiltFolder(
      copying,
      unless((call) => call.method === 'remove' && !isSnapshotFile(call)),
    ),
    group: 'snapshots',
    model: true,
  },
  {
    name: 'renames no snapshot',
    driver: overSpoiltFolder(
      copying,
      unless((call) => call.method === 'rename' && !isSnapshotFile(call)),
    ),
    group: 'names and parents of snapshots',
    model: true,
  },
  {
    name: 'keeps no parents, and does not say so',
    driver: { ...copying, capabilities: { ...copying.capabilities, snapshotParents: true } },
    group: 'names and parents of snapshots',
    model: true,
  },
  {
    name: 'tells only every other difference',
    driver: withDiff(({ extents, end }) => ({
      extents: extents.filter(({ offset }) => offset % 8192 === 0),
      end,
    })),
    group: 'differences between states',
    model: true,
  },
  {
    name: 'says that everything differs',
    driver: withDiff(({ end }, offset) => ({ extents: [{ offset, length: end - offset }], end })),
    group: 'differences between states',
    model: true,
  },
  {
    name: 'has no snapshots, and does not say so',
    driver: { ...raw, capabilities: { ...raw.capabilities, snapshots: 'internal', maxSnapshots: 100 } },
    group: 'snapshots',
    model: true,
  },
];

/** The names of the scenarios of a group that fail. */
async function failing(driver: BlockDriver, group: string): Promise<string[]> {
  const names: string[] = [];
  for (const each of groups.filter(({ name }) => name === group)) {
    for (const scenario of scenariosFor(each, { driver }, place)) {
      await runScenario(scenario, { driver }, place, seed).catch(() => names.push(scenario.name));
    }
  }
  return names;
}

it.each(defects)('the group $group finds a driver that $name', async ({ driver, group }) => {
  expect(await failing(driver, group)).not.toEqual([]);
});

it.each(defects.filter(({ model }) => model))(
  'the model run finds a driver that $name',
  async ({ driver }) => {
    await expect(modelRun({ driver }, { place, seed, numRuns: 60 })).rejects.toThrow(/seed/);
  },
);

it.each([raw, copying, mapping])(
  'the model run finds nothing in $name, which has no defect',
  async (driver) => {
    await expect(modelRun({ driver }, { place, seed, numRuns: 20 })).resolves.toBeUndefined();
  },
);
