import path from 'node:path';
import type { Lab } from '../lab.ts';
import { shuffled } from '../measure.ts';
import { settle } from '../qemu/grounds.ts';
import { seededRandom } from '../workload.ts';
import { type Batch, fioPerSecond } from './fio.ts';
import type { Images } from './images.ts';
import { barOf, beside, NBDKIT_FILE, QEMU_NBD } from './judge.ts';
import type { NbdProfile } from './profiles.ts';
import type { RequestRow } from './schema.ts';
import { nbdkit, ourServer, qemuNbd, type RunningServer, type ServerSpec, startServer } from './servers.ts';

/*
 * How fast is a client served, beside qemu-nbd (QCOW2) and nbdkit (its file plugin, raw)? Every server has an image
 * of its own with the same content, all of it in the page cache. In each round every kind of request has a batch with
 * every server, in an order drawn by lot; ratios are of the batches of one round. What a batch of writes left goes to
 * the device before the next one begins. nbdkit's memory plugin, which has no file at all, shows how fast the client is.
 *
 * Before the first round each of ours does one batch of each kind for nothing: the others were compiled long ago.
 */

interface Contestant {
  readonly spec: ServerSpec;
  readonly format: string | undefined;
  /** Where its image lies; undefined where it has none. */
  readonly folder: string | undefined;
}

const ourFormats: readonly string[] = ['fvd', 'qcow2', 'vmdk'];
const NBDKIT_MEMORY = 'nbdkit memory';
const peers: readonly string[] = [QEMU_NBD, NBDKIT_FILE];

async function contestants(lab: Lab, images: Images, { imageBytes }: NbdProfile): Promise<Contestant[]> {
  const qemuFile = await images.copy('qcow2', 'qemu');
  const nbdkitFile = await images.copy('raw', 'nbdkit');
  const others = [
    { spec: qemuNbd(QEMU_NBD, 'qcow2', qemuFile, lab.path('qemu.sock')), folder: path.dirname(qemuFile) },
    {
      spec: nbdkit(NBDKIT_FILE, lab.path('file.sock'), 'file', nbdkitFile),
      folder: path.dirname(nbdkitFile),
    },
    {
      spec: nbdkit(NBDKIT_MEMORY, lab.path('memory.sock'), 'memory', String(imageBytes)),
      folder: undefined,
    },
  ].map((other) => ({ ...other, format: undefined }));
  const ours: Contestant[] = [];
  for (const format of ourFormats) {
    const file = await images.copy(format, `ours-${format}`);
    ours.push({
      spec: ourServer(format, file, lab.path(`${format}.sock`)),
      format,
      folder: path.dirname(file),
    });
  }
  return [...others, ...ours];
}

interface Cell {
  readonly batch: Batch;
  /** By server. */
  readonly perSecond: Map<string, number[]>;
}

function cellsOf({ depths, randomBytes, sequentialBytes }: NbdProfile): Cell[] {
  const kinds = [
    ['random', randomBytes],
    ['sequential', sequentialBytes],
  ] as const;
  return kinds.flatMap(([pattern, requestBytes]) =>
    (['read', 'write'] as const).flatMap((operation) =>
      depths.map((depth) => ({ batch: { operation, pattern, requestBytes, depth }, perSecond: new Map() })),
    ),
  );
}

export async function measureRequests(
  lab: Lab,
  images: Images,
  profile: NbdProfile,
  tick: (done: number) => void,
): Promise<RequestRow[]> {
  const all = await contestants(lab, images, profile);
  const running: RunningServer[] = [];
  try {
    for (const { spec } of all) running.push(await startServer(spec));
    const cells = cellsOf(profile);
    await measureRounds(all, cells, profile, tick);
    return cells.flatMap((cell) => rowsOf(all, cell));
  } finally {
    for (const server of running) await server.stop();
    for (const { folder } of all) if (folder !== undefined) await lab.discard(folder);
  }
}

async function measureRounds(
  all: readonly Contestant[],
  cells: readonly Cell[],
  { rounds, batchMs, imageBytes }: NbdProfile,
  tick: (done: number) => void,
): Promise<void> {
  const ask = async ({ spec, folder }: Contestant, { batch }: Cell): Promise<number> => {
    const perSecond = await fioPerSecond(spec.socket, batch, imageBytes, batchMs);
    if (batch.operation === 'write' && folder !== undefined) await settle(folder);
    return perSecond;
  };
  for (const one of all) {
    if (one.format !== undefined) for (const cell of cells) await ask(one, cell);
  }
  const random = seededRandom(rounds);
  for (let round = 0; round < rounds; round++) {
    for (const [at, cell] of shuffled(cells, random).entries()) {
      for (const one of shuffled(all, random)) {
        const samples = cell.perSecond.get(one.spec.name) ?? [];
        cell.perSecond.set(one.spec.name, samples);
        samples.push(await ask(one, cell));
      }
      tick((round + (at + 1) / cells.length) / rounds);
    }
  }
}

function rowsOf(all: readonly Contestant[], { batch, perSecond }: Cell): RequestRow[] {
  const of = (name: string): number[] => perSecond.get(name) ?? [];
  return all.map(({ spec: { name }, format }) => ({
    server: name,
    ours: format !== undefined,
    ...batch,
    perSecond: of(name),
    beside:
      format === undefined
        ? []
        : peers.map((peer) => beside(peer, of(name), of(peer), barOf(format, peer, batch))),
  }));
}
