import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { SnapshotInfo } from '@cowlab/core';
import { assertSameBytes } from './expect.ts';
import type { ReferenceModel } from './reference-model.ts';

/*
 * The judge: qemu-img reads what our drivers wrote. It sees closed files only, and knows nothing of the model
 * but its raw bytes.
 *
 *     qcow2   check: no errors, no leaks · compare with the model · snapshot -l · convert -l NAME
 *     vmdk    compare the top of the chain, and the file of every snapshot, with the model
 */

/** How an image is put before qemu-img. */
export interface JudgeSpec {
  readonly format: 'qcow2' | 'vmdk';
  /** For chains: the file, beside `file`, that holds the state of `snapshot`. */
  readonly snapshotFile?: (file: string, snapshot: SnapshotInfo) => string;
}

/** A closed image, and what it has to be. */
export interface Exhibit {
  readonly file: string;
  readonly model: ReferenceModel;
  /** As the driver lists them; their states are in the model, by name. */
  readonly snapshots: readonly SnapshotInfo[];
}

interface Verdict {
  readonly status: number;
  readonly output: string;
}

const run = promisify(execFile);
let available: boolean | undefined;

/** Whether qemu-img can be run here. */
export function qemuAvailable(): boolean {
  available ??= spawnSync('qemu-img', ['--version'], { stdio: 'ignore' }).status === 0;
  return available;
}

async function qemuImg(folder: string, ...args: string[]): Promise<Verdict> {
  try {
    const { stdout, stderr } = await run('qemu-img', args, { cwd: folder });
    return { status: 0, output: stdout + stderr };
  } catch (error) {
    const { code, stdout = '', stderr = '' } = error as { code?: unknown; stdout?: string; stderr?: string };
    if (typeof code !== 'number') throw error;
    return { status: code, output: stdout + stderr };
  }
}

async function assertAgrees(folder: string, ...args: string[]): Promise<string> {
  const { status, output } = await qemuImg(folder, ...args);
  assert.equal(status, 0, `qemu-img ${args.join(' ')}: exit status ${status}\n${output}`);
  return output;
}

async function compare(folder: string, spec: JudgeSpec, file: string, expected: Uint8Array): Promise<void> {
  const raw = `${file}.expected`;
  await writeFile(join(folder, raw), expected);
  await assertAgrees(folder, 'compare', '-f', spec.format, '-F', 'raw', file, raw);
  await rm(join(folder, raw));
}

async function judgeInternalSnapshots(folder: string, exhibit: Exhibit): Promise<void> {
  const { file, model } = exhibit;
  const list = await assertAgrees(folder, 'snapshot', '-l', file);
  const raw = `${file}.snapshot`;
  for (const [name, expected] of model.snapshots) {
    assert.ok(list.includes(name), `qemu-img snapshot -l does not list ${name}:\n${list}`);
    await assertAgrees(folder, 'convert', '-f', 'qcow2', '-O', 'raw', '-l', name, file, raw);
    assertSameBytes(await readFile(join(folder, raw)), expected, `qemu-img convert -l ${name}`);
    await rm(join(folder, raw));
  }
}

async function judgeChain(folder: string, spec: JudgeSpec, exhibit: Exhibit): Promise<void> {
  if (spec.snapshotFile === undefined) throw new TypeError('a judge of chains needs snapshotFile');
  for (const snapshot of exhibit.snapshots) {
    const file = spec.snapshotFile(exhibit.file, snapshot);
    await compare(folder, spec, file, exhibit.model.snapshot(snapshot.name));
  }
}

/** Fails when qemu-img sees something else in the closed image; does nothing where it is missing. */
export async function judgeImage(spec: JudgeSpec, folder: string, exhibit: Exhibit): Promise<void> {
  if (!qemuAvailable()) return;
  const { file, model } = exhibit;
  if (spec.format === 'qcow2') await assertAgrees(folder, 'check', '-f', 'qcow2', file);
  await compare(folder, spec, file, model.bytes);
  if (spec.format === 'qcow2') await judgeInternalSnapshots(folder, exhibit);
  else await judgeChain(folder, spec, exhibit);
}
