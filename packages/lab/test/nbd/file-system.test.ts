// A real file system on a disk that we serve: the kernel's ext4, through FUSE and a loop device, over snapshots. The server is
// `cowlab serve`, a process of its own, started from the build.

import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { cp, mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { MiB } from './contents.ts';
import { attempt, hasJudges, run, start } from './judges.ts';
import { drivers, newSite, type Site } from './serving.ts';
import { Volume, whyNoVolumes } from './volume.ts';

const program = fileURLToPath(new URL('../../../cli/dist/cowlab.js', import.meta.url));
const packages = fileURLToPath(new URL('../../..', import.meta.url));
const reason = whyNoVolumes();
const title = reason === undefined ? '' : ` (left out: ${reason})`;

/** The sources of this repository, as one tree. */
async function sourceTree(site: Site): Promise<string> {
  const sources = site.path('sources');
  for (const name of await readdir(packages)) {
    await mkdir(join(sources, name), { recursive: true });
    await cp(join(packages, name, 'src'), join(sources, name), { recursive: true });
  }
  return sources;
}

const cowlab = (...argv: string[]): Promise<string> => run(process.execPath, [program, ...argv]);

/** Serves the disk, uses it as a device, and ends all of it, the server as a service is ended. */
async function attached(site: Site, use: (volume: Volume) => Promise<void>): Promise<void> {
  const serve = [program, 'serve', '--persistent', '--socket', site.socket, site.image];
  const server = await start(process.execPath, serve, async () => existsSync(site.socket));
  const volume = await Volume.attach(site);
  await use(volume);
  await volume.detach();
  server.kill('SIGTERM');
  expect(await once(server, 'exit')).toEqual([0, null]);
}

const differences = (sources: string, { tree }: Volume) =>
  attempt('diff', ['--recursive', '--brief', '--exclude=lost+found', sources, tree]);

describe.skipIf(reason !== undefined || !hasJudges('nbdfuse')).each(drivers)(
  `ext4 on a served disk, $name${title}`,
  (driver) => {
    it('comes back whole with a snapshot, after half of it was deleted', async () => {
      const site = await newSite(driver, 256 * MiB);
      const sources = await sourceTree(site);
      await attached(site, async (volume) => {
        await run('mkfs.ext4', ['-q', volume.device]);
        await volume.mount();
        await run('cp', ['--archive', `${sources}/.`, volume.tree]);
        await volume.unmount();
      });
      await cowlab('check', site.image);
      await cowlab('snapshot', '-c', 'all of it', site.image);

      await attached(site, async (volume) => {
        await volume.mount('-o', 'discard');
        expect(await differences(sources, volume)).toMatchObject({ status: 0, stdout: '' });
        const files = (await run('find', [volume.tree, '-type', 'f'])).trim().split('\n').toSorted();
        await run(
          'rm',
          files.filter((_, index) => index % 2 === 0),
        );
        await run('fstrim', [volume.tree]);
        await run('dd', ['if=/dev/urandom', `of=${join(volume.tree, 'else')}`, 'bs=1M', 'count=20']);
        expect(await differences(sources, volume)).toMatchObject({ status: 1 });
        await volume.unmount();
        expect(await attempt('fsck.ext4', ['-f', '-n', volume.device])).toMatchObject({ status: 0 });
      });
      await cowlab('snapshot', '-a', 'all of it', site.image);
      await cowlab('check', site.image);

      await attached(site, async (volume) => {
        expect(await attempt('fsck.ext4', ['-f', '-n', volume.device])).toMatchObject({ status: 0 });
        await volume.mount('-o', 'ro');
        expect(await differences(sources, volume)).toMatchObject({ status: 0, stdout: '' });
        await volume.unmount();
      });
      await cowlab('check', site.image);
    }, 150_000);
  },
);
