import { appendFile, mkdir, realpath, writeFile } from 'node:fs/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { StraceLog } from '../src/targets/strace.ts';
import { takeTurns } from '../src/targets/turns.ts';
import { scratch } from './lab.ts';

const at = scratch();

describe('a log of strace', () => {
  let folder: string;
  beforeAll(async () => {
    await mkdir(at('images'));
    folder = await realpath(at('images'));
  });

  async function counted(lines: readonly string[]): Promise<ReturnType<ReturnType<StraceLog['next']>>> {
    await writeFile(at('log'), lines.map((line) => `${line.replaceAll('DIR', folder)}\n`).join(''));
    return new StraceLog(at('log'), folder).next()((file, offset) =>
      file === 'a.img' && offset < 4096 ? 'header' : 'data',
    );
  }

  it('tells reads, writes, zeroes, discards and flushes, and their bytes by what they are for', async () => {
    const calls = await counted([
      '10 openat(AT_FDCWD</tmp>, ""..., O_RDWR|O_CLOEXEC) = 4<DIR/a.img>',
      '11 pread64(4<DIR/a.img>, ""..., 512, 0) = 512',
      '11 preadv(4<DIR/a.img>, [{iov_base=""..., iov_len=4096}], 1, 65536) = 4096',
      '11 pwritev(4<DIR/a.img>, [{iov_base=""..., iov_len=100}, {iov_base=""..., iov_len=28}], 2, 8192) = 128',
      '11 fallocate(4<DIR/a.img>, FALLOC_FL_ZERO_RANGE, 0, 65536) = 0',
      '11 fallocate(4<DIR/a.img>, FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE, 65536, 65536) = 0',
      '11 fdatasync(4<DIR/a.img>) = 0',
    ]);
    expect(calls).toMatchObject({ calls: 6, bytes: 512 + 4096 + 128, flushes: 1, folderCalls: 1 });
    expect(calls.purposes.header).toMatchObject({ reads: 1, readBytes: 512, zeroes: 1 });
    expect(calls.purposes.data).toMatchObject({
      reads: 1,
      readBytes: 4096,
      writes: 1,
      writtenBytes: 128,
      discards: 1,
    });
  });

  it('puts together what another thread’s line has cut in two', async () => {
    const calls = await counted([
      '11 pread64(4<DIR/a.img>,  <unfinished ...>',
      '12 pwrite64(5<DIR/b.img>, ""..., 10, 20 <unfinished ...>',
      '11 <... pread64 resumed>""..., 4096, 8192) = 4096',
      '12 <... pwrite64 resumed>) = 10',
    ]);
    expect(calls).toMatchObject({ calls: 2, bytes: 4106 });
    expect(calls.purposes.data).toMatchObject({ readBytes: 4096, writtenBytes: 10 });
  });

  it('leaves out other files, and what failed', async () => {
    const calls = await counted([
      '11 pread64(3</usr/lib/libc.so.6>, ""..., 784, 64) = 784',
      '11 pread64(4<DIR/below/a.img>, ""..., 512, 0) = 512',
      '11 fallocate(4<DIR/a.img>, 0, 0, 512) = -1 EOPNOTSUPP (Operation not supported)',
      '11 +++ exited with 0 +++',
    ]);
    expect(calls).toMatchObject({ calls: 0, bytes: 0 });
  });

  it('is told piece by piece, each call once', async () => {
    const line = `11 fdatasync(4<${folder}/a.img>) = 0\n`;
    await writeFile(at('grows'), line);
    const log = new StraceLog(at('grows'), folder);
    const next = (): number => log.next()(() => 'data').flushes;
    expect(next()).toBe(1);
    // A line that is being written counts when it is whole.
    await appendFile(at('grows'), line.slice(0, 10));
    expect(next()).toBe(0);
    await appendFile(at('grows'), line.slice(10) + line);
    expect(next()).toBe(2);
  });
});

describe('taking turns', () => {
  it('gives each its rounds, and lets who has used up the budget leave', async () => {
    const party = (rounds: number, micros: number) => ({
      rounds,
      batch: () => Promise.resolve({ operations: 4, micros }),
    });
    const times = await takeTurns([party(3, 400), party(3, 2000), party(1, 8)], 2);
    expect(times).toEqual([
      { operations: 12, roundMicros: [100, 100, 100] },
      { operations: 4, roundMicros: [500] },
      { operations: 4, roundMicros: [2] },
    ]);
  });
});
