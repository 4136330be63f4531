import fs from 'node:fs/promises';
import path from 'node:path';
import { qemuImg } from '../qemu/tools.ts';

/*
 * Long chains of empty files. QEMU makes the first two; the others are copies of the second, told of another file below.
 * A thousand commands would take half a minute, most of it for flushes.
 *
 * Names are all equally long, so that one can stand in the place of another. A VMDK file also names the content of the
 * one below by its id; copies have the second file's own id, and name it.
 */

/** The n-th file over the full one. */
export function linkName(nth: number): string {
  return `o${String(nth).padStart(6, '0')}.img`;
}

/** Makes the files from the first one over `base` to the n-th. */
export async function growChain(
  folder: string,
  format: string,
  base: string,
  bytes: number,
  count: number,
): Promise<void> {
  for (let nth = 1; nth <= Math.min(2, count); nth++) {
    const below = path.join(folder, nth === 1 ? base : linkName(1));
    const file = path.join(folder, linkName(nth));
    // The name of a file below is written as it is given.
    const options = ['-q', '-u', '-f', format, '-b', path.basename(below), '-F', format];
    await qemuImg('create', ...options, file, String(bytes));
  }
  if (count <= 2) return;
  const second = await fs.readFile(path.join(folder, linkName(2)));
  for (let nth = 3; nth <= count; nth++) {
    await fs.writeFile(path.join(folder, linkName(nth)), toldOf(second, nth));
  }
}

/** The second file's bytes as those of the n-th. */
function toldOf(second: Buffer, nth: number): Buffer {
  const bytes = Buffer.from(second);
  replaceOnce(bytes, linkName(1), linkName(nth - 1));
  const [, own] = /\nCID=([0-9a-f]+)\n/.exec(second.toString('latin1', 0, DESCRIPTOR_END)) ?? [];
  const [, parent] = /\nparentCID=([0-9a-f]+)\n/.exec(second.toString('latin1', 0, DESCRIPTOR_END)) ?? [];
  if (own !== undefined && parent !== undefined) {
    replaceOnce(bytes, `parentCID=${parent}\n`, `parentCID=${own}\n`);
  }
  return bytes;
}

/** QEMU writes the descriptor of a VMDK file within its first sectors. */
const DESCRIPTOR_END = 32 * 1024;

/** Text of another length moves what comes after it in the descriptor, which ends in zeros. */
function replaceOnce(bytes: Buffer, old: string, text: string): void {
  const at = bytes.indexOf(old);
  if (at < 0) throw new Error(`a file of QEMU's does not name ${old.trim()}`);
  const end = bytes.indexOf(0, at);
  const rest = bytes.subarray(at + old.length, end).toString('latin1');
  const written = bytes.write(`${text}${rest}`, at, 'latin1');
  bytes.fill(0, at + written, Math.max(end, at + written));
}
