import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { fromSystemError } from '@cowlab/core';
import { type NbdAddress, type NbdTlsOptions, parsePskKeys } from '@cowlab/nbd';
import { type Command, Option } from 'commander';
import { invalidUse } from './errors.ts';
import { collect, parseWhole } from './formats.ts';
import type { JsonOptions, SourceOptions } from './session.ts';

/* What `serve` is told; the letters are qemu-nbd's, the names for TLS nbdkit's. */

export interface ServeOptions extends SourceOptions, JsonOptions {
  readonly socket?: string;
  readonly port?: number;
  readonly host?: string;
  readonly allowRemote?: boolean;
  readonly allowPlaintext?: boolean;
  readonly readOnly?: boolean;
  readonly snapshot?: string;
  readonly withSnapshots?: boolean;
  readonly export?: readonly string[];
  readonly description?: string;
  readonly persistent?: boolean;
  readonly shared?: number;
  readonly pidFile?: string;
  readonly fork?: boolean;
  readonly io: 'sync' | 'threads';
  readonly tls?: NbdTlsOptions['mode'];
  readonly tlsCertificates?: string;
  readonly tlsPsk?: string;
  readonly tlsVerifyPeer?: boolean;
  readonly quiet?: boolean;
}

const DEFAULT_PORT = 10_809;
const MAX_PORT = 65_535;

export function withServeOptions(command: Command): Command {
  return command
    .option('-k, --socket <path>', 'listen on a Unix socket')
    .option('-p, --port <number>', `listen on TCP; ${DEFAULT_PORT} without it, 0 for a free one`, parsePort)
    .option('-b, --host <address>', 'with --port: the address to listen on; 127.0.0.1 without it')
    .option('--allow-remote', 'with --host: also an address that others than this machine reach')
    .option('--allow-plaintext', 'with --allow-remote: also without TLS')
    .option('-r, --read-only', 'refuse changes')
    .option('-l, --snapshot <name>', 'serve this snapshot, which can only be read, in the place of the disk')
    .option('--with-snapshots', 'serve every snapshot, too, each by its name, to be read')
    .option('-x, --export <name>', 'name of the export; for several files, once for each', collect)
    .option('-D, --description <text>', 'what the exports are, for those who list them')
    .option('-t, --persistent', 'go on when the last client has gone')
    .option('-e, --shared <number>', 'clients at a time (128)', parseShared)
    .option('--pid-file <path>', 'write the process id there when clients can come; gone again in the end')
    .option('--fork', 'come back when clients can come, and go on serving in another process')
    .addOption(
      new Option('--io <how>', 'how files are read and written: at once, or by threads, for slow media')
        .choices(['sync', 'threads'])
        .default('sync'),
    )
    .addOption(
      new Option('--tls <mode>', 'TLS for those who want it, or for everybody').choices(['allow', 'require']),
    )
    .option('--tls-certificates <dir>', 'server-cert.pem, server-key.pem and, to verify clients, ca-cert.pem')
    .option('--tls-verify-peer', 'only clients with a certificate that ca-cert.pem has signed')
    .option(
      '--tls-psk <file>',
      'keys that both sides know, a line NAME:HEX for each client, as psktool writes',
    )
    .option('-q, --quiet', 'do not print the URI, nor what goes wrong with a client');
}

function parsePort(text: string): number {
  const port = parseWhole(text, '--port');
  if (port > MAX_PORT) throw invalidUse('--port', `${port} is above ${MAX_PORT}`);
  return port;
}

function parseShared(text: string): number {
  const count = parseWhole(text, '--shared');
  if (count === 0) throw invalidUse('--shared', 'nobody could come');
  return count;
}

/** Options that cannot go together, before any file is opened. */
export function assertServes(files: readonly string[], options: ServeOptions): void {
  const { socket, port, host, snapshot, withSnapshots, export: names = [], forceShare } = options;
  if (socket !== undefined && (port !== undefined || host !== undefined)) {
    throw invalidUse('--socket', 'not beside --port or --host');
  }
  if (snapshot !== undefined && withSnapshots) throw invalidUse('--snapshot', 'not beside --with-snapshots');
  if (snapshot !== undefined && files.length > 1) throw invalidUse('--snapshot', 'goes with one file');
  if (names.length > 0 && names.length !== files.length) {
    throw invalidUse('--export', `${names.length} names for ${files.length} files`);
  }
  if (forceShare && !options.readOnly && snapshot === undefined) {
    throw invalidUse('--force-share', 'goes with --read-only');
  }
  const { tls, tlsCertificates, tlsPsk, tlsVerifyPeer } = options;
  if (tls !== undefined && tlsCertificates === undefined && tlsPsk === undefined) {
    throw invalidUse('--tls', 'goes with --tls-certificates or --tls-psk');
  }
  if (tlsVerifyPeer && tlsCertificates === undefined) {
    throw invalidUse('--tls-verify-peer', 'goes with --tls-certificates');
  }
}

export function addressOf({ socket, port = DEFAULT_PORT, host }: ServeOptions): NbdAddress {
  // Absolute, so that the printed URI is good everywhere.
  if (socket !== undefined) return { path: path.resolve(socket) };
  return { port, ...(host !== undefined && { host }) };
}

/** TLS is required wherever there are keys, unless it is said otherwise. */
export async function tlsOf(options: ServeOptions): Promise<NbdTlsOptions | undefined> {
  const { tls: mode = 'require', tlsCertificates: directory, tlsPsk, tlsVerifyPeer = false } = options;
  if (directory === undefined && tlsPsk === undefined) return undefined;
  const x509 = directory === undefined ? undefined : await certificatesIn(directory, tlsVerifyPeer);
  const psk = tlsPsk === undefined ? undefined : { keys: parsePskKeys(await textOf(tlsPsk), tlsPsk) };
  return { mode, ...(x509 && { x509 }), ...(psk && { psk }) };
}

async function certificatesIn(directory: string, verifyPeer: boolean): Promise<NbdTlsOptions['x509']> {
  const cert = await textOf(path.join(directory, 'server-cert.pem'));
  const key = await textOf(path.join(directory, 'server-key.pem'));
  if (!verifyPeer) return { cert, key };
  return { cert, key, ca: await textOf(path.join(directory, 'ca-cert.pem')), verifyPeer };
}

async function textOf(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw fromSystemError(error, file, 'read');
  }
}
