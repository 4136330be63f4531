import type { Socket } from 'node:net';
import { createServer, type Server, type TlsOptions, type TLSSocket } from 'node:tls';
import { CowlabError } from '@cowlab/core';

/** TLS for the clients of a server. */
export interface NbdTlsOptions {
  /** `require`: nothing is served without it. `allow`: the client chooses, and so does whoever sits between. */
  readonly mode: 'allow' | 'require';
  /** Certificates, PEM. At least one of `x509` and `psk` is there. */
  readonly x509?: {
    readonly cert: string | Uint8Array;
    readonly key: string | Uint8Array;
    /** Who may have signed the clients' certificates. */
    readonly ca?: string | Uint8Array;
    /** Only clients with a certificate that `ca` has signed. */
    readonly verifyPeer?: boolean;
  };
  /** Keys that both sides know already, by the client's name; see {@link parsePskKeys}. */
  readonly psk?: { readonly keys: ReadonlyMap<string, Uint8Array> };
}

/** Cipher suites by which only keys known before are used; with certificates too, they come behind Node's own. */
const PSK_CIPHERS =
  'ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:ECDHE-PSK-AES256-CBC-SHA384:PSK-AES256-GCM-SHA384:PSK-AES128-GCM-SHA256';

/** The file that GnuTLS's `psktool` writes: a line `name:hexadecimal key` for each client. */
export function parsePskKeys(text: string, file: string): Map<string, Uint8Array> {
  const keys = new Map<string, Uint8Array>();
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line === '' || line.startsWith('#')) continue;
    const colon = line.lastIndexOf(':');
    const hex = line.slice(colon + 1);
    if (colon <= 0 || !/^(?:[0-9a-f]{2})+$/i.test(hex)) {
      const problem = `${file}: line ${index + 1}: not a name, a colon and a hexadecimal key`;
      throw new CowlabError('ERR_INVALID_OPTION', problem, { file, field: `line ${index + 1}` });
    }
    keys.set(line.slice(0, colon), Buffer.from(hex, 'hex'));
  }
  return keys;
}

/** Node's options for them; throws `ERR_INVALID_OPTION` for what can never work. */
export function checkTls(options: NbdTlsOptions): void {
  const { x509, psk } = options;
  if (x509 === undefined && (psk === undefined || psk.keys.size === 0))
    throw invalid('neither a certificate nor a key');
  if (x509?.verifyPeer === true && x509.ca === undefined)
    throw invalid('clients cannot be verified without a ca');
  try {
    createServer(nodeOptions(options, 0));
  } catch (error) {
    throw invalid((error as Error).message, error);
  }
}

/**
 * Takes the encryption of a connection up. Resolves to the socket that speaks plainly on this side, or rejects when the
 * client cannot, or is not who it has to be; the socket is destroyed then. Nothing may have been read beyond STARTTLS.
 */
export function startTls(socket: Socket, options: NbdTlsOptions, timeoutMs: number): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    // One server for one connection: that tells which encrypted socket is whose.
    const server: Server = createServer(nodeOptions(options, timeoutMs));
    server.once('secureConnection', resolve);
    server.once('tlsClientError', (error) => {
      socket.destroy();
      reject(error);
    });
    socket.once('close', () => reject(new Error('the client has gone in the midst of the TLS handshake')));
    server.emit('connection', socket);
  });
}

function nodeOptions({ x509, psk }: NbdTlsOptions, timeoutMs: number): TlsOptions {
  const options: TlsOptions = { minVersion: 'TLSv1.2', handshakeTimeout: timeoutMs };
  if (x509 !== undefined) {
    const { cert, key, ca, verifyPeer = false } = x509;
    Object.assign(options, { cert: asBuffer(cert), key: asBuffer(key) });
    if (ca !== undefined) options.ca = asBuffer(ca);
    // Who has shown a key that both sides know is asked for no certificate.
    options.requestCert = verifyPeer;
    options.rejectUnauthorized = verifyPeer;
  }
  if (psk !== undefined) {
    options.pskCallback = (_, identity) => psk.keys.get(identity) ?? null;
    options.ciphers = x509 === undefined ? PSK_CIPHERS : `HIGH:!aNULL:!kRSA:${PSK_CIPHERS}`;
    options.maxVersion = 'TLSv1.2';
    options.dhparam = 'auto';
  }
  return options;
}

function asBuffer(pem: string | Uint8Array): string | Buffer {
  return typeof pem === 'string' ? pem : Buffer.from(pem);
}

function invalid(problem: string, cause?: unknown): CowlabError {
  return new CowlabError('ERR_INVALID_OPTION', `tls: ${problem}`, { field: 'tls' }, cause);
}
