import path from 'node:path';
import { CowlabError } from '@cowlab/core';

/*
 * NBD URIs (doc/uri.md of the NetworkBlockDevice project), with the query parameters for TLS that libnbd reads.
 *
 *   nbd[s]://[USER@]HOST[:PORT][/EXPORT][?…]        HOST is localhost where it is left out, PORT 10809
 *   nbd[s]+unix://[USER@]/[EXPORT]?socket=PATH[&…]
 *
 * An `s` asks for TLS: there is none without it, and no connection when the server has none. Everything is
 * percent-decoded, as UTF-8; `+` is a plus.
 */

const DEFAULT_PORT = 10809;
/** Longest string of the protocol, bytes. */
const MAX_NAME_BYTES = 4096;

/** Where a server listens: a Unix socket (a NUL in front names an abstract one), or TCP. */
export type NbdAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/** What a URI says of TLS. */
export interface NbdUriTls {
  /** `x509` unless a key file or `tls-type` says otherwise. */
  readonly type: 'x509' | 'psk';
  /** Name that the server's certificate has to have; the host's over TCP, none over a Unix socket. */
  readonly hostname?: string;
  /** True unless `tls-verify-peer=0`. */
  readonly verifyPeer: boolean;
  /** Directory with `ca-cert.pem`, and `client-cert.pem` with `client-key.pem` where the server wants one. */
  readonly certificates?: string;
  /** File with lines `USER:HEX`. */
  readonly pskFile?: string;
  /** Identity for a pre-shared key; the name of this process's user where it is left out. */
  readonly username?: string;
}

/** A URI taken apart. */
export interface NbdUri {
  readonly address: NbdAddress;
  /** Export name; '' is the server's default. */
  readonly export: string;
  /** Absent without TLS. */
  readonly tls?: NbdUriTls;
}

type Part = 'scheme' | 'authority' | 'host' | 'port' | 'username' | 'export' | 'query' | 'fragment';

/** Whether a text is meant as an NBD URI: it begins as one, well-formed or not. */
export function isNbdUri(text: string): boolean {
  return /^nbds?(?:\+[a-z]+)?:/i.test(text);
}

function refuse(uri: string, part: string, problem: string, value?: string): never {
  const data = { file: uri, field: part, ...(value !== undefined && { value }) };
  throw new CowlabError('ERR_INVALID_URI', `${uri}: ${part}: ${problem}`, data);
}

function decode(uri: string, part: Part | `query ${string}`, text: string): string {
  let decoded: string;
  try {
    decoded = decodeURIComponent(text);
  } catch {
    refuse(uri, part, `is not percent-encoded UTF-8: ${text}`, text);
  }
  return decoded;
}

/**
 * Takes an NBD URI apart. Throws `ERR_INVALID_URI` with the part's name as `data.field`: `scheme`, `authority`, `host`,
 * `port`, `username`, `export`, `query NAME`, `fragment`; `ERR_UNSUPPORTED` for `nbd+vsock` and for anonymous TLS.
 */
export function parseNbdUri(uri: string): NbdUri {
  const match = /^([^:/?#]+):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?(#.*)?$/su.exec(uri);
  if (match === null) refuse(uri, 'scheme', 'there is none');
  const [, scheme = '', authority = '', exportPath = '', query = '', fragment] = match;
  const { secure, unix } = schemeOf(uri, scheme);
  if (fragment !== undefined) refuse(uri, 'fragment', 'an NBD URI has none', fragment);
  if (exportPath !== '' && !exportPath.startsWith('/')) {
    refuse(uri, 'export', `does not begin with /: ${exportPath}`, exportPath);
  }
  const parameters = parametersOf(uri, query);
  const { username, host, port } = authorityOf(uri, authority);
  const address = unix ? unixAddress(uri, authority, parameters) : { host, port };
  if (!unix && parameters.has('socket')) refuse(uri, 'query socket', `does not go with ${scheme}`);
  const tls = tlsOf(uri, secure, parameters, username, unix ? undefined : host);
  return { address, export: exportOf(uri, exportPath), ...(tls !== undefined && { tls }) };
}

function schemeOf(uri: string, scheme: string): { secure: boolean; unix: boolean } {
  switch (scheme.toLowerCase()) {
    case 'nbd':
      return { secure: false, unix: false };
    case 'nbds':
      return { secure: true, unix: false };
    case 'nbd+unix':
      return { secure: false, unix: true };
    case 'nbds+unix':
      return { secure: true, unix: true };
    case 'nbd+vsock':
    case 'nbds+vsock': {
      const problem = 'Node has no vsock sockets';
      throw new CowlabError('ERR_UNSUPPORTED', `${uri}: scheme: ${problem}`, {
        file: uri,
        field: 'scheme',
        value: scheme,
      });
    }
    default:
      return refuse(uri, 'scheme', `${scheme} is none of nbd, nbds, nbd+unix, nbds+unix`, scheme);
  }
}

function exportOf(uri: string, exportPath: string): string {
  const name = decode(uri, 'export', exportPath.slice(1));
  if (name.includes('\0')) refuse(uri, 'export', 'has a NUL', name);
  const bytes = Buffer.byteLength(name);
  if (bytes > MAX_NAME_BYTES) refuse(uri, 'export', `has ${bytes} bytes, more than ${MAX_NAME_BYTES}`);
  return name;
}

function authorityOf(
  uri: string,
  authority: string,
): { username: string | undefined; host: string; port: number } {
  const match = /^(?:([^@]*)@)?(\[[^\]]*\]|[^:@[\]]*)(?::([^:]*))?$/u.exec(authority);
  if (match === null) refuse(uri, 'authority', `is not [user@]host[:port]: ${authority}`, authority);
  const [, user, hostText = '', portText] = match;
  const isV6 = hostText.startsWith('[');
  const host = isV6 ? hostText.slice(1, -1) : decode(uri, 'host', hostText);
  if (isV6 && !/^[0-9a-f:.]+(?:%25.+)?$/iu.test(host)) {
    refuse(uri, 'host', `is no IPv6 address: ${hostText}`, hostText);
  }
  const port = portText === undefined || portText === '' ? DEFAULT_PORT : Number(portText);
  if (!/^\d*$/u.test(portText ?? '') || port < 1 || port > 65_535) {
    refuse(uri, 'port', `is not a number from 1 to 65535: ${portText}`, portText);
  }
  return {
    username: user === undefined ? undefined : decode(uri, 'username', user),
    host: host === '' ? 'localhost' : host.replace('%25', '%'),
    port,
  };
}

function unixAddress(
  uri: string,
  authority: string,
  parameters: ReadonlyMap<string, string>,
): { path: string } {
  const place = authority.replace(/^[^@]*@/u, '');
  if (place !== '') {
    refuse(uri, 'authority', `names ${place}, but the server is at a Unix socket`, place);
  }
  const socket = parameters.get('socket');
  if (socket === undefined || socket === '')
    refuse(uri, 'query socket', 'the path of the Unix socket is missing');
  if (socket.indexOf('\0', 1) >= 0) refuse(uri, 'query socket', 'has a NUL');
  return { path: socket.startsWith('\0') ? socket : path.resolve(socket) };
}

const PARAMETERS = [
  'socket',
  'tls-type',
  'tls-hostname',
  'tls-verify-peer',
  'tls-certificates',
  'tls-psk-file',
] as const;

function parametersOf(uri: string, query: string): ReadonlyMap<string, string> {
  const parameters = new Map<string, string>();
  for (const piece of query.split(/[&;]/u).filter((each) => each !== '')) {
    const at = piece.indexOf('=');
    const name = decode(uri, 'query', at < 0 ? piece : piece.slice(0, at));
    if (!(PARAMETERS as readonly string[]).includes(name)) {
      refuse(uri, `query ${name}`, `unknown; there are: ${PARAMETERS.join(', ')}`, name);
    }
    if (parameters.has(name)) refuse(uri, `query ${name}`, 'is given twice');
    parameters.set(name, at < 0 ? '' : decode(uri, `query ${name}`, piece.slice(at + 1)));
  }
  return parameters;
}

function tlsOf(
  uri: string,
  secure: boolean,
  parameters: ReadonlyMap<string, string>,
  username: string | undefined,
  host: string | undefined,
): NbdUriTls | undefined {
  if (!secure) {
    const stray = [...parameters.keys()].find((name) => name.startsWith('tls-'));
    if (stray !== undefined) refuse(uri, `query ${stray}`, 'only goes with nbds and nbds+unix');
    return undefined;
  }
  const pskFile = parameters.get('tls-psk-file');
  const certificates = parameters.get('tls-certificates');
  const hostname = parameters.get('tls-hostname') ?? host;
  return {
    type: tlsTypeOf(uri, parameters.get('tls-type') ?? (pskFile === undefined ? 'x509' : 'psk')),
    verifyPeer: isVerified(uri, parameters.get('tls-verify-peer') ?? '1'),
    ...(hostname !== undefined && { hostname }),
    ...(certificates !== undefined && { certificates }),
    ...(pskFile !== undefined && { pskFile }),
    ...(username !== undefined && { username }),
  };
}

function tlsTypeOf(uri: string, type: string): 'x509' | 'psk' {
  if (type === 'x509' || type === 'psk') return type;
  const field = 'query tls-type';
  if (type !== 'anon') return refuse(uri, field, `${type} is none of x509, psk`, type);
  const message = `${uri}: ${field}: an anonymous server could be anybody`;
  throw new CowlabError('ERR_UNSUPPORTED', message, { file: uri, field, value: type });
}

function isVerified(uri: string, value: string): boolean {
  if (value === '1' || value === '0') return value === '1';
  return refuse(uri, 'query tls-verify-peer', `${value} is neither 0 nor 1`, value);
}

/** Who an export is, however its URI is written: the key of locks and cycle checks. */
export function identityOf({ address, export: name }: NbdUri): string {
  const place =
    'path' in address ? `unix:${address.path}` : `tcp:${address.host.toLowerCase()}:${address.port}`;
  return `nbd:${place}/${name}`;
}
