// Encrypted images: refused by name, whoever made them, and left as they are.

import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openDisk } from '@cowlab/core';
import { qcow2 } from '@cowlab/qcow2-like';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bytesIn, MIB, newImage, open, put, Qemu, qemuIsMissing } from './lab.ts';

describe.skipIf(qemuIsMissing)('an encrypted image of QEMU is refused, by the name of its method', () => {
  let qemu: Qemu;
  beforeEach(async () => {
    qemu = new Qemu(await mkdtemp(join(tmpdir(), 'cowlab-qcow2-')));
  });
  afterEach(() => rm(qemu.folder, { recursive: true, force: true }));

  it.each([
    ['luks', ['-o', 'encrypt.iter-time=200'], /LUKS.*method 2/, 2],
    ['aes', [], /AES.*method 1/, 1],
  ])('%s', async (format, more, message, value) => {
    const secret = ['--object', 'secret,id=key,data=cowlab'];
    const encryption = ['-o', `encrypt.format=${format},encrypt.key-secret=key`, ...more];
    await qemu.img('create', '-q', ...secret, '-f', 'qcow2', ...encryption, 'disk.qcow2', '8M');
    const before = await readFile(qemu.path('disk.qcow2'));
    for (const readOnly of [true, false]) {
      const opening = openDisk(qemu.path('disk.qcow2'), { drivers: [qcow2], readOnly });
      await expect(opening).rejects.toMatchObject({
        code: 'ERR_UNSUPPORTED',
        message: expect.stringMatching(message),
        data: { file: 'disk.qcow2', field: 'header.crypt_method', value },
      });
    }
    expect((await readFile(qemu.path('disk.qcow2'))).equals(before)).toBe(true);
  });
});

describe('encryption that a header tells of in its own way is refused', () => {
  it.each<[string, (bytes: Buffer) => void, string]>([
    ['an unknown method', (bytes) => void bytes.writeUInt32BE(7, 32), 'header.crypt_method'],
    [
      'a LUKS header without a method',
      (bytes) => void bytes.writeUInt32BE(0x0537_be77, bytes.readUInt32BE(100)),
      'header extension.encryption',
    ],
  ])('%s', async (_, change, field) => {
    const folder = await newImage(MIB);
    const bytes = await bytesIn(folder);
    change(bytes);
    await put(folder, bytes);
    const refused = { code: 'ERR_UNSUPPORTED', data: { file: 'disk.qcow2', field } };
    await expect(open(folder)).rejects.toMatchObject(refused);
    await expect(open(folder, true)).rejects.toMatchObject(refused);
  });
});
