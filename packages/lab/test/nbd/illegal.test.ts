// Requests that no client should send, sent by nbdsh with its strictness off, and by hand: each is answered as the protocol
// says, the connection goes on unless its stream is lost, and the image is as it was.

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { servedContents } from './contents.ts';
import { expectKept } from './expect.ts';
import { hasJudges, run } from './judges.ts';
import { drivers } from './serving.ts';

interface Case {
  readonly case: string;
  readonly answer: string;
  readonly goesOn: boolean;
}

/** What the protocol allows for an answer. */
const answers: Readonly<Record<string, readonly string[]>> = {
  'past the end: read across': ['EINVAL'],
  'past the end: read after': ['EINVAL'],
  'past the end: read far': ['EINVAL'],
  'past the end: write across': ['ENOSPC'],
  'past the end: write after': ['ENOSPC'],
  'past the end: write far': ['ENOSPC'],
  'past the end: zero across': ['ENOSPC'],
  'past the end: zero far': ['ENOSPC'],
  'past the end: trim across': ['EINVAL'],
  'past the end: trim far': ['EINVAL'],
  'past the end: cache across': ['EINVAL'],
  'past the end: status across': ['EINVAL'],
  'past the end: status far': ['EINVAL'],
  'zero length: read': ['EINVAL', 'ok'],
  'zero length: write': ['EINVAL', 'ok'],
  'zero length: trim': ['EINVAL', 'ok'],
  'zero length: zero': ['EINVAL', 'ok'],
  'zero length: cache': ['EINVAL', 'ok'],
  'zero length: status': ['EINVAL'],
  'flags: unknown, read': ['EINVAL'],
  'flags: unknown, write': ['EINVAL'],
  'flags: unknown, flush': ['EINVAL'],
  'flags: unknown, trim': ['EINVAL'],
  'flags: no hole, read': ['EINVAL'],
  'flags: no hole, trim': ['EINVAL'],
  'flags: fast zero, write': ['EINVAL'],
  'flags: df, write': ['EINVAL'],
  'flags: one extent, read': ['EINVAL'],
  'whole replies: small read': ['ok'],
  'simple replies: df, read': ['EINVAL'],
  'simple replies: status': ['EINVAL'],
  'bytes: unaligned': ['ok'],
  'bytes: what was written unaligned': ['ab\0\0\0fgh'],
  'read-only: write': ['EPERM'],
  'read-only: zero': ['EPERM'],
  'read-only: trim': ['EPERM'],
  'read-only: flush': ['ok', 'EINVAL'],
  'read-only: read': ['ok'],
  'by hand: command 8': ['EINVAL'],
  'by hand: command 9': ['EINVAL'],
  'by hand: command 77': ['EINVAL'],
  'by hand: command 65535': ['EINVAL'],
  'by hand: read of 4 GiB': ['EINVAL', 'EOVERFLOW'],
  'by hand: read of 64 MiB and a byte': ['EINVAL', 'EOVERFLOW'],
  'by hand: read that wraps around': ['EINVAL'],
  'by hand: trim that wraps around': ['EINVAL'],
  'by hand: zeroes of 4 GiB': ['ENOSPC'],
  'by hand: zeroes that wrap around': ['ENOSPC', 'EINVAL'],
  'by hand: write that wraps around': ['ENOSPC', 'EINVAL'],
  'by hand: write of 48 MiB': ['EINVAL', 'EOVERFLOW'],
  'by hand: flush with a range': ['EINVAL', 'ok'],
  'options: unknown': ['error 1'],
  'options: unknown export': ['error 6'],
  'options: name longer than its option': ['error 3'],
  'options: name that is not UTF-8': ['error 3', 'error 6'],
  'options: list with data': ['error 3'],
  'options: structured replies with data': ['error 3'],
  'options: contexts before structured replies': ['error 3'],
  'options: option of 1 MiB': ['error 9'],
  'others: beside one that never reads': ['ok'],
};

/** Here nothing tells where the next request begins, or nothing more can come: the end. */
const lost: Readonly<Record<string, readonly string[]>> = {
  'by hand: wrong magic': ['closed', 'EINVAL'],
  'options: wrong magic': ['closed'],
  'unfinished: write': ['closed'],
  'unfinished: write of 4 GiB': ['closed'],
  'unfinished: request': ['closed'],
  'unfinished: option of 4 GiB': ['closed'],
  'unfinished: option': ['closed'],
};

describe.skipIf(!hasJudges('nbdsh')).each(drivers)('illegal requests to $name', (driver) => {
  it('are answered as the protocol says, and change nothing', async () => {
    const { site, contents } = await servedContents(driver);
    await site.disk.snapshots.create('before');
    await site.restart();
    const settings = { socket_path: site.socket, read_only_name: 'before', size: site.disk.size };
    const preset = Object.entries(settings).map(([name, value]) => `${name} = ${JSON.stringify(value)}`);
    const script = fileURLToPath(new URL('illegal.py', import.meta.url));
    const output = await run('nbdsh', ['-n', '-c', preset.join('\n'), '-c', '-'], {
      input: await readFile(script, 'utf8'),
    });
    const cases = output
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Case);
    const wrong = cases.filter((each) => {
      const allowed = answers[each.case] ?? lost[each.case] ?? [];
      return !allowed.includes(each.answer) || each.goesOn !== each.case in answers;
    });
    expect(wrong).toEqual([]);
    expect(cases.map((each) => each.case).toSorted()).toEqual(
      Object.keys({ ...answers, ...lost }).toSorted(),
    );
    const expected = Buffer.from(contents.bytes);
    expected.set(Buffer.from('ab\0\0\0fgh'), 1021);
    await expectKept(site, expected);
  });
});
