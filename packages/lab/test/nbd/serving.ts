import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { type BlockDriver, createDisk, type Disk, openDisk } from '@cowlab/core';
import { fvd } from '@cowlab/fvd';
import { NbdServer, type NbdServerStats } from '@cowlab/nbd';
import { qcow2 } from '@cowlab/qcow2-like';
import { vmdk } from '@cowlab/vmdk-chain';
import { onTestFinished } from 'vitest';

/* An image of one of the drivers, served in this process: the disk under the default name, each snapshot under its own. */

export const drivers: readonly BlockDriver[] = [fvd, qcow2, vmdk];

/** A folder that is gone after the test. */
async function scratchFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'cowlab-nbd-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

export class Site {
  readonly folder: string;
  /** Path of the image. */
  image: string;
  readonly socket: string;
  readonly #driver: BlockDriver;
  #open: { readonly disk: Disk; readonly snapshots: Disk[]; readonly server: NbdServer } | undefined;

  constructor(driver: BlockDriver, folder: string) {
    this.#driver = driver;
    this.folder = folder;
    this.image = this.path(`disk.${driver.name}`);
    this.socket = this.path('socket');
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** The disk behind the server. */
  get disk(): Disk {
    if (this.#open === undefined) throw new TypeError('nothing is served');
    return this.#open.disk;
  }

  /** Counters of the server, since it was started. */
  get stats(): NbdServerStats {
    if (this.#open === undefined) throw new TypeError('nothing is served');
    return this.#open.server.stats();
  }

  /** Of the disk, or of one of its snapshots. */
  uri(name = ''): string {
    return `nbd+unix:///${encodeURIComponent(name)}?socket=${this.socket}`;
  }

  /** Puts a new image over the present one, which is its backing file from now on. */
  async putOver(): Promise<void> {
    const above = this.path(`above.${this.#driver.name}`);
    const backing = { file: basename(this.image), format: this.#driver.name };
    await createDisk(above, { driver: this.#driver, drivers: [this.#driver], backing });
    this.image = above;
  }

  /** Opens the image without serving it. */
  async opened<T>(use: (disk: Disk) => Promise<T>): Promise<T> {
    const disk = await openDisk(this.image, { drivers: [this.#driver] });
    try {
      return await use(disk);
    } finally {
      await disk.close();
    }
  }

  async serve(): Promise<void> {
    const disk = await openDisk(this.image, { drivers: [this.#driver] });
    const snapshots: Disk[] = [];
    try {
      const exports = [{ name: '', disk, readOnly: false }];
      for (const { name } of await disk.snapshots.list()) {
        const snapshot = await disk.snapshots.open(name);
        snapshots.push(snapshot);
        exports.push({ name, disk: snapshot, readOnly: true });
      }
      const server = await NbdServer.listen({ exports, listen: { path: this.socket } });
      this.#open = { disk, snapshots, server };
    } catch (error) {
      for (const each of [...snapshots, disk]) await each.close();
      throw error;
    }
  }

  /** Ends the server and closes the image. Without a server it does nothing. */
  async stop(): Promise<void> {
    const open = this.#open;
    this.#open = undefined;
    if (open === undefined) return;
    try {
      await open.server.close();
    } finally {
      for (const each of [...open.snapshots, open.disk]) await each.close();
    }
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.serve();
  }
}

/** A new image, not served yet. What is served when the test is over is stopped then. */
export async function newSite(driver: BlockDriver, size: number): Promise<Site> {
  const site = new Site(driver, await scratchFolder());
  onTestFinished(() => site.stop());
  await createDisk(site.image, { driver, size });
  return site;
}
