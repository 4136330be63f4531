// Encrypted images: refused by name, whoever made them, and left as they are.

import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { bytesIn, MIB, newImage, open, put, Qemu, qemuIsMissing } from './lab.ts';

/**
 * QEMU times its key derivation by the processor's clock, and gives up when that has not moved, as it happens on a busy
 * machine, less with a hash that takes longer.
 */
async function untilMeasured(create: () => Promise<unknown>): Promise<void> {
  for (let left = 10; left > 0; left -= 1) {
    try {
      await create();
      return;
    } catch (error) {
      if (left === 1 || !/accurate CPU usage/.test(String(error))) throw error;
    }
  }
}

describe.skipIf(qemuIsMissing)('an encrypted image of QEMU is refused, by the name of its method', () => {
  const qemu = Qemu.forEachTest();

  it.each([
    ['luks', ['-o', 'encrypt.iter-time=10,encrypt.hash-alg=sha512'], /LUKS.*method 2/, 2],
    ['aes', [], /AES.*method 1/, 1],
  ])('%s', async (format, more, message, value) => {
    const secret = ['--object', 'secret,id=key,data=cowlab'];
    const encryption = ['-o', `encrypt.format=${format},encrypt.key-secret=key`, ...more];
    await untilMeasured(() =>
      qemu.img('create', '-q', ...secret, '-f', 'qcow2', ...encryption, 'disk.qcow2', '8M'),
    );
    const before = await readFile(qemu.path('disk.qcow2'));
    for (const readOnly of [true, false]) {
      const opening = qemu.open('disk.qcow2', { readOnly });
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
