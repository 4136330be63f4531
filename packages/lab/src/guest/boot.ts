import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import type { GuestParts } from './parts.ts';
import type { Step } from './scripts.ts';

export type Accelerator = 'kvm' | 'tcg';

/** With KVM a kernel's first word comes within a second; where KVM is there and does not work (in a guest of another), none. */
const kvmFirstWordMs = 20_000;
/** An emulated guest on a busy machine takes its time. */
const firstWordMs = 120_000;
const mostMs = 10 * 60_000;

interface Ending {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly text: string;
}

/** Runs QEMU until the guest has powered off, or is ended for saying nothing for `silenceMs`. */
function runQemu(args: readonly string[], silenceMs: number): Promise<Ending> {
  return new Promise((resolve, reject) => {
    const qemu = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const end = (): boolean => qemu.kill('SIGKILL');
    const silence = setTimeout(end, silenceMs);
    const tooLong = setTimeout(end, mostMs);
    process.once('exit', end);
    const said: string[] = [];
    qemu.stdout.on('data', (text) => {
      clearTimeout(silence);
      said.push(String(text));
    });
    qemu.stderr.on('data', (text) => said.push(String(text)));
    qemu.on('error', reject);
    qemu.on('close', (status, signal) => {
      clearTimeout(silence);
      clearTimeout(tooLong);
      process.off('exit', end);
      resolve({ status, signal, text: said.join('').replaceAll('\r', '') });
    });
  });
}

function machine(accelerator: Accelerator, parts: GuestParts, parameters: string): string[] {
  const hardware = ['-nodefaults', '-display', 'none', '-serial', 'stdio', '-no-reboot', '-m', '256'];
  const kernel = ['-kernel', parts.kernel, '-initrd', parts.initramfs];
  const append = `console=ttyS0 panic=-1 ${parameters}`;
  return [...hardware, '-accel', accelerator, ...kernel, '-append', append];
}

/** Boots the guest with its root on `uri`, until it powers off, and returns what it said on its serial console. */
export async function boot(
  accelerator: Accelerator,
  parts: GuestParts,
  uri: string,
  step: Step,
): Promise<string> {
  const drive = `file=${uri},format=raw,if=virtio,cache=writeback,discard=unmap`;
  const args = [...machine(accelerator, parts, `cowlab=${step}`), '-drive', drive];
  const { status, signal, text } = await runQemu(args, firstWordMs);
  if (status === 0) return text;
  throw new Error(`qemu-system-x86_64 ended by ${signal ?? `status ${status}`}:\n${text}`);
}

/** KVM where a kernel gets anywhere with it. */
export async function findAccelerator(parts: GuestParts): Promise<Accelerator> {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return 'tcg';
  }
  // Without a disk it panics, and that ends it.
  const { status, text } = await runQemu(machine('kvm', parts, ''), kvmFirstWordMs);
  return status === 0 && text.includes('Linux version') ? 'kvm' : 'tcg';
}
