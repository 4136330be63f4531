import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type BlockDriver, createDisk, type Disk, openDisk } from '@cowlab/core';
import { NbdServer } from '@cowlab/nbd';
import { type Accelerator, boot, findAccelerator } from './boot.ts';
import { type GuestParts, makeParts } from './parts.ts';
import { type Step, steps } from './scripts.ts';
import { tool } from './tool.ts';

/*
 * A guest whose root file system lies on an image of ours, served over NBD, boots three times:
 *
 *     write     writes files and their checksums               then: a snapshot
 *     halve     verifies, deletes half, writes, trims           then: back to the snapshot
 *     verify    verifies all of it
 *
 * Each boot has a server of its own. After each, the image checks clean, and e2fsck finds nothing in what it reads as.
 */

export interface GuestRun {
  readonly driver: BlockDriver;
  /** Room for everything that is made. */
  readonly folder: string;
  /** Where packages of Debian lie, or are put. */
  readonly packages: string;
  readonly say: (line: string) => void;
  readonly onConsole: (text: string) => void;
}

const rootBytes: number = 256 * 1024 * 1024;
const mib = (bytes: number): string => `${(bytes / 1024 / 1024).toFixed(1)} MiB`;

class Guest {
  readonly #run: GuestRun;
  readonly #parts: GuestParts;
  readonly #accelerator: Accelerator;
  readonly #image: string;
  readonly #socket: string;

  constructor(run: GuestRun, parts: GuestParts, accelerator: Accelerator) {
    this.#run = run;
    this.#parts = parts;
    this.#accelerator = accelerator;
    this.#image = join(run.folder, `disk.${run.driver.name}`);
    this.#socket = join(run.folder, 'socket');
  }

  get #uri(): string {
    return `nbd+unix:///?socket=${this.#socket}`;
  }

  /** Makes the image and puts the root file system into it. */
  async create(): Promise<void> {
    const { driver } = this.#run;
    await createDisk(this.#image, { driver, drivers: [driver], size: rootBytes });
    await this.#served(() =>
      tool('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', this.#parts.root, this.#uri]),
    );
    await this.#expectClean();
  }

  async run(step: Step): Promise<void> {
    const started = performance.now();
    const text = await this.#served(() => boot(this.#accelerator, this.#parts, this.#uri, step));
    const seconds = ((performance.now() - started) / 1000).toFixed(0);
    this.#run.onConsole(text);
    const said = text.split('\n').filter((line) => line.startsWith('cowlab: '));
    for (const line of said) this.#run.say(`  ${line}`);
    if (!said.some((line) => line.startsWith(`cowlab: ${step} done`)) || text.includes('is not there')) {
      throw new Error(`the guest has failed:\n${text}`);
    }
    await this.#expectClean();
    const { size } = await stat(this.#image);
    this.#run.say(`${step}: powered off after ${seconds} s, the image of ${mib(size)} checks clean`);
  }

  async opened<T>(use: (disk: Disk) => Promise<T>): Promise<T> {
    const disk = await openDisk(this.#image, { drivers: [this.#run.driver] });
    try {
      return await use(disk);
    } finally {
      await disk.close();
    }
  }

  #served<T>(use: () => Promise<T>): Promise<T> {
    return this.opened(async (disk) => {
      const server = await NbdServer.listen({
        exports: [{ name: '', disk, readOnly: false }],
        listen: { path: this.#socket },
      });
      try {
        return await use();
      } finally {
        const { requests, readBytes, writtenBytes, errors } = server.stats();
        await server.close();
        const counts = Object.entries(requests).filter(([, count]) => count > 0);
        const served = counts.map(([name, count]) => `${count} ${name}`).join(', ');
        this.#run.say(
          `  served ${served}; read ${mib(readBytes)}, written ${mib(writtenBytes)}, ${errors} errors`,
        );
      }
    });
  }

  /** The image is whole, and so is the file system on it. */
  async #expectClean(): Promise<void> {
    const { corruptions, leaks, findings } = await this.opened((disk) => disk.check());
    if (corruptions + leaks > 0) throw new Error(`the image has ${JSON.stringify(findings)}`);
    const copy = join(this.#run.folder, 'copy.raw');
    await this.#served(() => tool('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', this.#uri, copy]));
    await tool('e2fsck', ['-f', '-n', copy]);
  }
}

export async function runGuest(run: GuestRun): Promise<void> {
  const parts = await makeParts(run.folder, run.packages, rootBytes);
  const accelerator = await findAccelerator(parts);
  const [version = ''] = (await tool('qemu-system-x86_64', ['--version'])).split('\n');
  run.say(`${version}, ${accelerator}; ${parts.packageName}; root on ${run.driver.name}, ${mib(rootBytes)}`);
  const guest = new Guest(run, parts, accelerator);
  await guest.create();
  const between: Partial<Record<Step, (disk: Disk) => Promise<unknown>>> = {
    write: (disk) => disk.snapshots.create('written'),
    halve: (disk) => disk.snapshots.apply('written'),
  };
  for (const step of steps) {
    await guest.run(step);
    const then = between[step];
    if (then !== undefined) await guest.opened(then);
  }
}
