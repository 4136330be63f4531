import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { mkdir, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { attempt, run, start } from './judges.ts';
import type { Site } from './serving.ts';

/*
 * A served disk as a block device of this machine: our server ← nbdfuse (the disk as a file) ← a loop device. What reads
 * or writes the device is always another process: this one has to answer.
 */

/** Why this machine has no such devices; undefined where it has. Nothing here is a judge, so CI need not have it. */
export function whyNoVolumes(): string | undefined {
  if (process.getuid?.() !== 0) return 'only root attaches loop devices';
  try {
    closeSync(openSync('/dev/fuse', 'r+'));
  } catch {
    return '/dev/fuse cannot be opened';
  }
  if (!readFileSync('/proc/filesystems', 'utf8').includes('\text4\n')) return 'the kernel has no ext4';
  const folder = mkdtempSync(join(tmpdir(), 'cowlab-volume-'));
  try {
    const file = join(folder, 'disk');
    writeFileSync(file, '');
    truncateSync(file, 8 * 1024 * 1024);
    const tried = (program: string, ...args: string[]): boolean => spawnSync(program, args).status === 0;
    if (!tried('mkfs.ext4', '-q', file)) return 'mkfs.ext4 does not work';
    if (!tried('mount', '-o', 'loop', file, folder)) return 'loop devices cannot be mounted';
    return tried('umount', folder) ? undefined : 'what is mounted cannot be unmounted';
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export class Volume {
  readonly device: string;
  readonly tree: string;
  readonly #fuse: string;
  #attached = true;
  #mounted = false;

  private constructor(device: string, fuse: string, tree: string) {
    this.device = device;
    this.tree = tree;
    this.#fuse = fuse;
  }

  static async attach(site: Site): Promise<Volume> {
    const fuse = site.path('fuse');
    const tree = site.path('tree');
    await mkdir(fuse, { recursive: true });
    await mkdir(tree, { recursive: true });
    const file = join(fuse, 'disk');
    const isThere = (): Promise<boolean> =>
      stat(file).then(
        () => true,
        () => false,
      );
    await start('nbdfuse', [file, site.uri()], isThere);
    onTestFinished(async () => void (await attempt('umount', ['-l', fuse])));
    const device = (await run('losetup', ['--find', '--show', file])).trim();
    const volume = new Volume(device, fuse, tree);
    onTestFinished(() => volume.detach());
    return volume;
  }

  async mount(...options: string[]): Promise<void> {
    await run('mount', [...options, this.device, this.tree]);
    this.#mounted = true;
  }

  async unmount(): Promise<void> {
    await run('umount', [this.tree]);
    this.#mounted = false;
  }

  /** Idempotent. */
  async detach(): Promise<void> {
    if (!this.#attached) return;
    this.#attached = false;
    if (this.#mounted) await attempt('umount', ['-l', this.tree]);
    await run('losetup', ['--detach', this.device]);
    await run('umount', [this.#fuse]);
  }
}
