import { execFileSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { judgeImage, qemuAvailable, ReferenceModel } from '../src/index.ts';

/* The judge is shown images that qemu itself made: it has to agree with the right model and with no other. */

const size = 1 << 20;
const kept = { id: '1', name: 'kept', createdAt: new Date(0), size };
let folder: string;
let model: ReferenceModel;

function qemu(program: 'qemu-img' | 'qemu-io', ...args: string[]): void {
  execFileSync(program, args, { cwd: folder, stdio: 'pipe' });
}

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'cowlab-judge-'));
  model = new ReferenceModel(size, 65_536);
});

afterEach(() => rm(folder, { recursive: true, force: true }));

describe.skipIf(!qemuAvailable() && !process.env['CI'])('the judge, where qemu-img is', () => {
  const judgeQcow2 = (): Promise<void> =>
    judgeImage({ format: 'qcow2' }, folder, { file: 'disk.img', model, snapshots: [kept] });
  const judgeVmdk = (): Promise<void> =>
    judgeImage({ format: 'vmdk', snapshotFile: () => 'base.vmdk' }, folder, {
      file: 'disk.vmdk',
      model,
      snapshots: [kept],
    });

  /** Sevens at 4096 in a snapshot, nines at 8192 after it. */
  function makeStates(): void {
    model.write(4096, new Uint8Array(512).fill(7));
    model.createSnapshot('kept');
    model.write(8192, new Uint8Array(512).fill(9));
  }

  it('agrees with a qcow2 image and its snapshot, and with nothing else', async () => {
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', 'disk.img', String(size));
    qemu('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 4096 512', 'disk.img');
    qemu('qemu-img', 'snapshot', '-c', 'kept', 'disk.img');
    qemu('qemu-io', '-f', 'qcow2', '-c', 'write -P 9 8192 512', 'disk.img');
    makeStates();
    await expect(judgeQcow2()).resolves.toBeUndefined();
    model.createSnapshot('never made');
    await expect(judgeQcow2()).rejects.toThrow('does not list never made');
    model.deleteSnapshot('never made');
    model.deleteSnapshot('kept');
    model.createSnapshot('kept');
    await expect(judgeQcow2()).rejects.toThrow('convert -l kept');
    model.write(0, new Uint8Array(1).fill(1));
    await expect(judgeQcow2()).rejects.toThrow(/compare[\s\S]*mismatch/);
  });

  it('does not agree with a qcow2 image that has a leak', async () => {
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', 'disk.img', String(size));
    qemu('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 0 64k', 'disk.img');
    // The second entry of the first refcount block counts a cluster that nothing uses.
    qemu('qemu-io', '-f', 'raw', '-c', `write -P 0 ${3 * 65_536} 8`, 'disk.img');
    model.write(0, new Uint8Array(65_536).fill(7));
    await expect(judgeQcow2()).rejects.toThrow('qemu-img check');
  });

  it('agrees with a vmdk chain at its top and below, and with nothing else', async () => {
    qemu('qemu-img', 'create', '-q', '-f', 'vmdk', 'base.vmdk', String(size));
    qemu('qemu-io', '-f', 'vmdk', '-c', 'write -P 7 4096 512', 'base.vmdk');
    qemu('qemu-img', 'create', '-q', '-f', 'vmdk', '-b', 'base.vmdk', '-F', 'vmdk', 'disk.vmdk');
    qemu('qemu-io', '-f', 'vmdk', '-c', 'write -P 9 8192 512', 'disk.vmdk');
    makeStates();
    await expect(judgeVmdk()).resolves.toBeUndefined();
    model.deleteSnapshot('kept');
    model.createSnapshot('kept');
    await expect(judgeVmdk()).rejects.toThrow('base.vmdk');
  });
});
