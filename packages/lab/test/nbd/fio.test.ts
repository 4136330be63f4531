// fio writes, reads and trims at random and verifies by checksums what it gets back; COWLAB_FIO_SECONDS says how long.

import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { MiB } from './contents.ts';
import { attempt, hasJudges, run } from './judges.ts';
import { drivers, newSite, type Site } from './serving.ts';

const seconds = Number(process.env['COWLAB_FIO_SECONDS'] ?? 15);
const seed = Number(process.env['COWLAB_SEED'] ?? Math.floor(Math.random() * 0x7fff_ffff));
const size = 192 * MiB;

/** Each workload has a part of the disk. */
const partBytes = size / 4;

/**
 * Workloads at once, with a connection each: blocks that are trimmed and then written (one after the other, since fio
 * does not wait for a trim before it writes there, and at the start of the disk, since elsewhere fio 3.33 trims only);
 * writes of any length, many at a time, each read again soon; trims, of which nothing is expected but that they do no harm;
 * and reads in between.
 */
function job(uri: string): string {
  return `
[global]
ioengine=nbd
uri=${uri}
size=${partBytes}
time_based
runtime=${seconds}
randseed=${seed}
iodepth=16
verify=crc32c
verify_fatal=1
verify_backlog=512

[trimwrite]
rw=randtrimwrite
bs=64k
iodepth=1
verify_backlog=16

[write]
rw=randwrite
offset=${partBytes}
bsrange=512-96k
fsync=200

[trim]
rw=randtrim
offset=${2 * partBytes}
bsrange=4k-256k

[read]
rw=randrw
rwmixread=70
offset=${3 * partBytes}
bs=4k
`;
}

type Direction = 'read' | 'write' | 'trim';

interface FioReport {
  readonly jobs: readonly ({ readonly jobname: string; readonly error: number } & Readonly<
    Record<Direction, { readonly total_ios: number }>
  >)[];
}

/** What each workload did at all, without errors. */
function deedsOf(report: FioReport): Record<string, Direction[]> {
  const directions = ['read', 'write', 'trim'] as const;
  return Object.fromEntries(
    report.jobs.map((each) => {
      expect(each.error).toBe(0);
      return [each.jobname, directions.filter((direction) => each[direction].total_ios > 0)];
    }),
  );
}

/** The foreign programs that know the format read the image, too. */
async function expectQemuAgrees({ image }: Site, format: string, raw: string): Promise<void> {
  if (format === 'fvd') return;
  if (format === 'qcow2') await run('qemu-img', ['check', '-f', format, image]);
  await run('qemu-img', ['compare', '-f', format, '-F', 'raw', image, raw]);
}

describe.skipIf(!hasJudges('fio', 'nbdcopy', 'qemu-img')).each(drivers)(
  'fio on a served disk, $name',
  (driver) => {
    it(
      `gets back what it wrote, for ${seconds} s from seed ${seed}, and so does who comes after a restart`,
      async () => {
        const site = await newSite(driver, size);
        await site.serve();
        await writeFile(site.path('job.fio'), job(site.uri()));
        const args = ['--output-format=json', '--output=report.json', 'job.fio'];
        const outcome = await attempt('fio', args, { cwd: site.folder, timeout: (seconds + 120) * 1000 });
        expect(outcome, `COWLAB_SEED=${seed}`).toMatchObject({ status: 0 });
        const report = JSON.parse(await readFile(site.path('report.json'), 'utf8')) as FioReport;
        expect(deedsOf(report)).toEqual({
          write: ['read', 'write'],
          trimwrite: ['read', 'write', 'trim'],
          trim: ['trim'],
          read: ['read', 'write'],
        });
        const raw = site.path('before.raw');
        await run('nbdcopy', [site.uri(), raw]);
        await site.stop();
        await expectQemuAgrees(site, driver.name, raw);
        await site.opened(async (disk) => {
          expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
        });
        await site.serve();
        expect(
          await attempt('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', site.uri(), raw]),
        ).toMatchObject({
          status: 0,
        });
      },
      (seconds + 180) * 1000,
    );
  },
);
