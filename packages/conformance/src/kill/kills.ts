import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Disk } from '@cowlab/core';
import { assertSameBytes } from '../expect.ts';
import { assertDisk, assertSnapshots } from '../explorer/contract.ts';
import { openIn } from '../explorer/guest.ts';
import { Lab, mainFile } from '../lab.ts';
import type { LabPart, PartContext } from '../part.ts';
import { Random } from '../random.ts';
import type { ConformanceSubject } from '../subject.ts';
import { contentsOf } from '../twin.ts';
import { killWorkloads } from './steps.ts';
import type { VictimOrder } from './victim.ts';
import { type Found, Witness } from './witness.ts';

/*
 * A process is killed at work. A victim (victim.ts) works on an image in the file system and says what it does, over
 * a pipe, before it does it and when it has returned. Some time after its first word it gets SIGKILL; then the image
 *
 *     opens, read-only and for writing (its lock is gone with the victim), to the same bytes
 *     has no corruption, and leaks only where the driver declares them
 *     shows in each sector what was last flushed or something that was written since
 *     has the snapshots that the contract says, whole
 *
 * and the next victim goes on with it. What the system has been given is not lost with a process: this finds what was
 * acknowledged and not handed over, and steps that are not whole in between; power loss is the explorer's.
 */

/** Starts a program that calls `runVictim` with that order; its stdout and stderr are pipes. */
export type StartVictim = (order: VictimOrder) => ChildProcess;

const strides = 64;
/** Victims that one image sees: few at first, so that a short run has seen all workloads. */
const firstKillsPerImage = 3;
const killsPerImage = 12;
/** After its first word a victim has so many milliseconds. */
const leastLifeMs = 5;
const mostLifeMs = 100;

/** What became of a victim. */
interface Death {
  readonly witness: Witness;
  /** What it said of itself when it ended before it was killed. */
  readonly failure: string | undefined;
}

async function killOne(victim: ChildProcess, witness: Witness, lifeMs: number): Promise<Death> {
  const { stdout, stderr } = victim;
  if (stdout === null || stderr === null) throw new TypeError('a victim needs pipes');
  let complaint = '';
  stderr.on('data', (part: Buffer) => {
    complaint += part.toString();
  });
  const gone = once(victim, 'close');
  const lines = createInterface({ input: stdout });
  const heard = once(lines, 'line');
  // A line that was cut off says that a step was about to begin; it had not.
  lines.on('line', (line) => {
    if (line === 'done' || line.endsWith('}')) witness.hear(line);
  });
  await Promise.race([heard, gone]);
  await sleep(lifeMs);
  victim.kill('SIGKILL');
  const [status] = (await gone) as [number | null];
  return { witness, failure: status === null ? undefined : `it ended by itself, ${status}: ${complaint}` };
}

async function snapshotsOf(disk: Disk): Promise<Map<string, Uint8Array>> {
  const found = new Map<string, Uint8Array>();
  if (disk.capabilities.snapshots === 'none') return found;
  for (const { id, name } of await disk.snapshots.list()) {
    const snapshot = await disk.snapshots.open(id);
    found.set(name, await contentsOf(snapshot));
    await snapshot.close();
  }
  return found;
}

/** What a killed process has left; throws where that is not as it must be. */
async function examine(lab: Lab, { contract }: Witness): Promise<Found> {
  const { afterPowerLoss } = lab.capabilities;
  const reader = await openIn(lab, lab.folder, { readOnly: true });
  const found: Found = { disk: await contentsOf(reader), snapshots: await snapshotsOf(reader) };
  assertDisk(found.disk, contract);
  assertSnapshots(found.snapshots, contract);
  await lab.assertClean(reader, afterPowerLoss);
  await reader.close();
  const writer = await openIn(lab, lab.folder, { readOnly: false });
  assertSameBytes(await contentsOf(writer), found.disk, 'the disk opened for writing');
  await lab.assertClean(writer, afterPowerLoss);
  await writer.close();
  return found;
}

/** The image as it is, kept for whoever looks into the matter: what a kill hit cannot be had again by its seed. */
async function keepFiles(lab: Lab): Promise<string> {
  const kept = await mkdtemp(join(tmpdir(), 'cowlab-killed-'));
  await cp(lab.path!, kept, { recursive: true });
  return kept;
}

interface Round {
  readonly context: PartContext;
  readonly start: StartVictim;
  readonly workload: string;
  readonly seed: number;
  /** How many victims. */
  readonly most: number;
}

/** One image, and the victims it sees; ends with the first that has left it wrong. */
async function runRound(round: Round, lab: Lab): Promise<void> {
  const { context, start, workload, seed, most } = round;
  const random = new Random(seed);
  await lab.create({ size: lab.size(strides) });
  let found: Found = { disk: new Uint8Array(lab.size(strides)), snapshots: new Map() };
  for (let kill = 0; kill < most && context.hasTime(); kill += 1) {
    const order = {
      driver: lab.driver.name,
      workload,
      seed: random.below(0x7fff_ffff),
      file: join(lab.path!, mainFile),
      stride: lab.stride,
    };
    const lifeMs = leastLifeMs + random.below(mostLifeMs - leastLifeMs + 1);
    const { witness, failure } = await killOne(start(order), new Witness(found), lifeMs);
    try {
      if (failure !== undefined) throw new Error(failure);
      found = await examine(lab, witness);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      const options = JSON.stringify(lab.options);
      const where = `${workload} with ${options}, kill ${kill} in ${witness.underWay}`;
      const message = `${where}: ${reason}; files kept in ${await keepFiles(lab)}`;
      context.violation({ workload, seed, state: `${kill}.${witness.underWay}`, message });
      return;
    }
    const { steps, underWay } = witness;
    context.count(workload, { verified: 1, duplicates: 0, steps, [`in ${underWay}`]: 1 });
  }
}

async function inLab(subject: ConformanceSubject, seed: number, use: (lab: Lab) => Promise<void>) {
  const lab = await Lab.make(subject, 'files', seed);
  try {
    await use(lab);
  } finally {
    await lab.dispose();
  }
}

/** Process kill as a part of the lab; `start` is how a victim is started. */
export function kills(start: StartVictim): LabPart {
  const namesFor: LabPart['workloads'] = (capabilities) =>
    Object.keys(killWorkloads).filter((name) => killWorkloads[name]!.applies(capabilities));
  return {
    name: 'kill',
    workloads: namesFor,

    async run(context) {
      const { subjects, shares } = context;
      const names = namesFor(subjects[0]!.driver.capabilities);
      const chosen = names.filter((name) => name === (context.workload ?? name));
      // A replay asks the same of the same seed, for as long as it has time: what a kill hits is the system's choice.
      const step = context.state === undefined ? shares : 0;
      let most = context.state === undefined ? firstKillsPerImage : killsPerImage;
      for (let { seed } = context; ; seed += step) {
        for (const workload of chosen) {
          if (!context.hasTime()) return;
          const subject = subjects[seed % subjects.length]!;
          await inLab(subject, seed, (lab) => runRound({ context, start, workload, seed, most }, lab));
        }
        most = killsPerImage;
      }
    },
  };
}
