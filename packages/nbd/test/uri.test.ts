import { describe, expect, it } from 'vitest';
import { isNbdUri } from '../src/index.ts';
import { identityOf, parseNbdUri } from '../src/client/uri.ts';

/** The part that a text is refused for, or what came of it. */
function refusalOf(uri: string): unknown {
  try {
    return parseNbdUri(uri);
  } catch (error) {
    const { code, data } = error as { code?: unknown; data?: { field?: unknown } };
    return `${String(code)} ${String(data?.field)}`;
  }
}

describe('an NBD URI', () => {
  it.each([
    ['nbd://example.com', { host: 'example.com', port: 10809 }, ''],
    ['nbd://example.com/', { host: 'example.com', port: 10809 }, ''],
    ['nbd://example.com:10810/disk', { host: 'example.com', port: 10810 }, 'disk'],
    ['nbd://example.com:/disk', { host: 'example.com', port: 10809 }, 'disk'],
    ['nbd://example.com//disk', { host: 'example.com', port: 10809 }, '/disk'],
    ['nbd://example.com/hello%20world+1', { host: 'example.com', port: 10809 }, 'hello world+1'],
    ['nbd://[::1]:1/%C3%A9', { host: '::1', port: 1 }, 'é'],
    ['nbd://[fe80::1%25eth0]', { host: 'fe80::1%eth0', port: 10809 }, ''],
    ['NBD:///x', { host: 'localhost', port: 10809 }, 'x'],
    ['nbd+unix:///?socket=/run/nbd.sock', { path: '/run/nbd.sock' }, ''],
    ['nbd+unix:///a%2Fb?socket=/run/my%20socket%3F', { path: '/run/my socket?' }, 'a/b'],
    ['nbd+unix:///?socket=%00abstract', { path: '\0abstract' }, ''],
    ['nbd+unix://?socket=/run/nbd.sock', { path: '/run/nbd.sock' }, ''],
  ])('%s names a server and an export', (uri, address, name) => {
    expect(parseNbdUri(uri)).toEqual({ address, export: name });
    expect(isNbdUri(uri)).toBe(true);
  });

  it.each([
    ['nbds://example.com', { type: 'x509', hostname: 'example.com', verifyPeer: true }],
    [
      'nbds+unix://alice@/?socket=/s&tls-certificates=certs',
      { type: 'x509', verifyPeer: true, certificates: 'certs', username: 'alice' },
    ],
    [
      'nbds://al%20ice@h/?tls-psk-file=/keys.psk',
      { type: 'psk', hostname: 'h', verifyPeer: true, pskFile: '/keys.psk', username: 'al ice' },
    ],
    [
      'nbds+unix:///?socket=/s&tls-hostname=server&tls-verify-peer=0&tls-type=x509',
      { type: 'x509', hostname: 'server', verifyPeer: false },
    ],
  ])('%s asks for TLS', (uri, tls) => {
    expect(parseNbdUri(uri).tls).toEqual(tls);
  });

  it.each([
    ['http://example.com', 'ERR_INVALID_URI scheme'],
    ['nbd+tcp://example.com', 'ERR_INVALID_URI scheme'],
    ['nbd+vsock://2:10809/', 'ERR_UNSUPPORTED scheme'],
    ['://x', 'ERR_INVALID_URI scheme'],
    ['nbd:disk', 'ERR_INVALID_URI export'],
    ['nbd://h/%00', 'ERR_INVALID_URI export'],
    ['nbd://h/%ff', 'ERR_INVALID_URI export'],
    [`nbd://h/${'x'.repeat(4097)}`, 'ERR_INVALID_URI export'],
    ['nbd://h:0', 'ERR_INVALID_URI port'],
    ['nbd://h:65536', 'ERR_INVALID_URI port'],
    ['nbd://h:1e3', 'ERR_INVALID_URI port'],
    ['nbd://[::g]', 'ERR_INVALID_URI host'],
    ['nbd://%zz', 'ERR_INVALID_URI host'],
    ['nbd://::1', 'ERR_INVALID_URI authority'],
    ['nbd://a@b@c', 'ERR_INVALID_URI authority'],
    ['nbd://%fe@h', 'ERR_INVALID_URI username'],
    ['nbd://h#x', 'ERR_INVALID_URI fragment'],
    ['nbd://h?socket=/s', 'ERR_INVALID_URI query socket'],
    ['nbd+unix:///', 'ERR_INVALID_URI query socket'],
    ['nbd+unix:///?socket=', 'ERR_INVALID_URI query socket'],
    ['nbd+unix:///?socket=/s&socket=/t', 'ERR_INVALID_URI query socket'],
    ['nbd+unix://host/?socket=/s', 'ERR_INVALID_URI authority'],
    ['nbd://h?x-y=1', 'ERR_INVALID_URI query x-y'],
    ['nbd://h?tls-psk-file=/s', 'ERR_INVALID_URI query tls-psk-file'],
    ['nbds://h?tls-type=none', 'ERR_INVALID_URI query tls-type'],
    ['nbds://h?tls-type=anon', 'ERR_UNSUPPORTED query tls-type'],
    ['nbds://h?tls-verify-peer=yes', 'ERR_INVALID_URI query tls-verify-peer'],
  ])('%s is refused, and the part is named: %s', (uri, refusal) => {
    expect(refusalOf(uri)).toBe(refusal);
  });

  it('is told from the path of a file', () => {
    const files = ['disk.img', 'nbd', './nbd://x', '/nbd:x', 'nbdx://h', 'file:disk.img'];
    expect(files.filter(isNbdUri)).toEqual([]);
  });

  it('has one identity, however it is written', () => {
    const same = ['nbd://Host/a%20b', 'nbd://host:10809/a b', 'nbds://host/a%20b'];
    expect(new Set(same.map((uri) => identityOf(parseNbdUri(uri)))).size).toBe(1);
    expect(identityOf(parseNbdUri('nbd://host/a'))).not.toBe(identityOf(parseNbdUri('nbd://host/b')));
  });
});
