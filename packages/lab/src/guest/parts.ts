import { chmod, cp, mkdir, readdir, symlink, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { initScript, rootScript } from './scripts.ts';
import { tool } from './tool.ts';

/*
 * What a guest is made of: Debian's kernel for virtual machines, with the few modules that it needs to see a virtio disk,
 * and Debian's static busybox, once as initramfs and once as root file system. Packages are unpacked, not installed.
 */

/** In an order in which they can be loaded; a kernel that has one built in has no file for it. */
const moduleNames = [
  'virtio_ring',
  'virtio',
  'virtio_pci_legacy_dev',
  'virtio_pci_modern_dev',
  'virtio_pci',
  'virtio_blk',
];

export interface GuestParts {
  readonly kernel: string;
  readonly initramfs: string;
  /** A raw ext4 file system. */
  readonly root: string;
  /** The kernel's package. */
  readonly packageName: string;
}

/** Unpacks a package of Debian into `target`; it stays in `packages` for the next run. */
async function unpack(name: string, packages: string, target: string): Promise<void> {
  const present = async (): Promise<string | undefined> =>
    (await readdir(packages)).find((file) => file.startsWith(`${name}_`) && file.endsWith('.deb'));
  if ((await present()) === undefined) await tool('apt-get', ['-qq', 'download', name], packages);
  const file = await present();
  if (file === undefined) throw new Error(`apt-get download ${name}: no package came`);
  await tool('dpkg', ['-x', join(packages, file), target]);
}

/** The package that the one without a version stands for. */
async function kernelPackage(): Promise<string> {
  const depends = await tool('apt-cache', ['depends', 'linux-image-cloud-amd64']);
  const name = /^ +Depends: (linux-image-\S+)/m.exec(depends)?.[1];
  if (name === undefined) throw new Error(`apt-cache knows no kernel: ${depends}`);
  return name;
}

async function writeProgram(path: string, text: string): Promise<void> {
  await writeFile(path, text);
  await chmod(path, 0o755);
}

async function busyboxTree(folder: string, busybox: string, others: readonly string[]): Promise<void> {
  for (const name of ['bin', ...others]) await mkdir(join(folder, name), { recursive: true });
  await cp(busybox, join(folder, 'bin/busybox'));
}

async function makeInitramfs(unpacked: string, busybox: string, folder: string): Promise<string> {
  const tree = join(folder, 'initramfs');
  await busyboxTree(tree, busybox, ['dev', 'root', 'modules']);
  const listed = await readdir(join(unpacked, 'lib/modules'), { recursive: true });
  const modules = moduleNames.flatMap((name) => listed.filter((path) => basename(path) === `${name}.ko`));
  for (const path of modules) {
    await cp(join(unpacked, 'lib/modules', path), join(tree, 'modules', basename(path)));
  }
  await writeProgram(join(tree, 'init'), initScript(modules.map((path) => basename(path))));
  const archive = join(folder, 'initramfs.cpio');
  await tool('sh', ['-c', `find . | ${busybox} cpio -o -H newc > "$1"`, 'sh', archive], tree);
  return archive;
}

async function makeRoot(busybox: string, folder: string, bytes: number): Promise<string> {
  const tree = join(folder, 'root');
  await busyboxTree(tree, busybox, ['dev', 'proc', 'sbin', 'data']);
  const applets = await tool(busybox, ['--list']);
  for (const name of applets.trim().split('\n')) {
    if (name !== 'busybox') await symlink('busybox', join(tree, 'bin', name));
  }
  await writeProgram(join(tree, 'sbin/init'), rootScript);
  const file = join(folder, 'root.raw');
  await writeFile(file, '');
  await tool('truncate', ['--size', String(bytes), file]);
  await tool('mkfs.ext4', ['-q', '-F', '-d', tree, file]);
  return file;
}

export async function makeParts(folder: string, packages: string, rootBytes: number): Promise<GuestParts> {
  const packageName = await kernelPackage();
  const unpacked = join(folder, 'unpacked');
  await unpack(packageName, packages, unpacked);
  await unpack('busybox-static', packages, unpacked);
  const busybox = join(unpacked, 'bin/busybox');
  const kernel = (await readdir(join(unpacked, 'boot'))).find((name) => name.startsWith('vmlinuz'));
  if (kernel === undefined) throw new Error(`${packageName} has no kernel`);
  return {
    kernel: join(unpacked, 'boot', kernel),
    initramfs: await makeInitramfs(unpacked, busybox, folder),
    root: await makeRoot(busybox, folder, rootBytes),
    packageName,
  };
}
