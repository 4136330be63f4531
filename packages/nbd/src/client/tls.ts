import { existsSync, readFileSync } from 'node:fs';
import net from 'node:net';
import { userInfo } from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import { CowlabError, fromSystemError } from '@cowlab/core';
import { parsePskKeys } from '../tls.ts';
import type { NbdUri, NbdUriTls } from './uri.ts';

/*
 * Who the other side is, in two ways. X.509: the server's certificate is signed by an authority that we trust (that of
 * the directory, else those that Node trusts), and names the host that we asked for; over a Unix socket there is no such
 * name, unless `tls-hostname` gives one. PSK: both know a key, which goes by a user's name.
 */

/** Keys and certificates given by the program, in the place of those that files hold. */
export interface NbdClientTls {
  /** Authorities that may have signed the server's certificate, PEM. */
  readonly ca?: string | Buffer;
  /** Our own certificate and its key, PEM, for servers that want one. */
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  /** Pre-shared keys by user name. */
  readonly psk?: ReadonlyMap<string, Uint8Array>;
}

function read(uri: string, field: string, file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    const { message, code } = fromSystemError(error, file, 'read');
    throw new CowlabError(code, `${uri}: ${field}: ${message}`, { file: uri, field, value: file }, error);
  }
}

function pskOptions(uri: string, asked: NbdUriTls, given: NbdClientTls): tls.ConnectionOptions {
  const field = 'query tls-psk-file';
  if (given.psk === undefined && asked.pskFile === undefined) {
    throw new CowlabError('ERR_TLS', `${uri}: ${field}: is missing`, { file: uri, field });
  }
  const keys = given.psk ?? parsePskKeys(read(uri, field, asked.pskFile!).toString('utf8'), asked.pskFile!);
  const identity = asked.username ?? userInfo().username;
  const psk = keys.get(identity);
  if (psk === undefined) {
    const message = `${uri}: username: there is no pre-shared key for ${identity}`;
    throw new CowlabError('ERR_TLS', message, { file: uri, field: 'username', value: identity });
  }
  return {
    pskCallback: () => ({ psk, identity }),
    // Suites that a key without a certificate can have; those of TLS 1.3 are on by themselves.
    ciphers: 'PSK',
    checkServerIdentity: () => undefined,
  };
}

function certificateOptions(uri: string, asked: NbdUriTls, given: NbdClientTls): tls.ConnectionOptions {
  const field = 'query tls-certificates';
  const { certificates: directory, hostname, verifyPeer } = asked;
  const from = (name: string): Buffer | undefined => {
    if (directory === undefined) return undefined;
    const file = path.join(directory, name);
    return existsSync(file) ? read(uri, field, file) : undefined;
  };
  if (directory !== undefined && !existsSync(directory)) {
    throw new CowlabError('ERR_NOT_FOUND', `${uri}: ${field}: no such directory: ${directory}`, {
      file: uri,
      field,
      value: directory,
    });
  }
  const ca = given.ca ?? from('ca-cert.pem');
  const cert = given.cert ?? from('client-cert.pem');
  const key = given.key ?? from('client-key.pem');
  return {
    ...(ca !== undefined && { ca }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    rejectUnauthorized: verifyPeer,
    checkServerIdentity: (_, certificate) =>
      hostname === undefined ? undefined : tls.checkServerIdentity(hostname, certificate),
  };
}

/**
 * What to connect with; undefined for a URI without TLS. Reads the files that the URI names. Throws `ERR_TLS`,
 * `ERR_NOT_FOUND`, `ERR_READ_ONLY` for a file that may not be read, `ERR_INVALID_OPTION` for a key file that is none.
 */
export function tlsOptions(
  uri: string,
  { tls: asked }: NbdUri,
  given: NbdClientTls,
): tls.ConnectionOptions | undefined {
  if (asked === undefined) return undefined;
  const { hostname } = asked;
  // A name for the server to choose its certificate by; addresses are none.
  const named = hostname !== undefined && net.isIP(hostname) === 0 ? { servername: hostname } : {};
  const options =
    asked.type === 'psk' ? pskOptions(uri, asked, given) : certificateOptions(uri, asked, given);
  return { ...named, ...options };
}
