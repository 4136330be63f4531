import { readFileSync } from 'node:fs';
import { cp, mkdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { type NbdClientOptions, type NbdTlsOptions, openNbd, parsePskKeys } from '../src/index.ts';
import { codeOf, hasServer, servers } from './servers.ts';
import { memoryDisk, serve } from './serving.ts';

/* The client over TLS, before three servers with two TLS libraries. The certificates are described in tls.test.ts. */

const MIB = 1024 * 1024;
const fixtures = fileURLToPath(new URL('fixtures/tls', import.meta.url));
const lab = await servers();
const KEY = '00112233445566778899aabbccddeeff';
const certificates = lab.path('certificates');
const clientOnly = lab.path('without-a-client');
const pskFile = lab.path('keys.psk');
const wrongPskFile = lab.path('wrong.psk');

beforeAll(async () => {
  await cp(fixtures, certificates, { recursive: true });
  await mkdir(clientOnly);
  await cp(`${fixtures}/ca-cert.pem`, `${clientOnly}/ca-cert.pem`);
  await writeFile(pskFile, `alice:${KEY}\n`);
  await writeFile(wrongPskFile, `alice:${KEY.replace('00', '01')}\n`);
});

type Kind = 'x509' | 'psk';

const fixture = (name: string): Buffer => readFileSync(`${fixtures}/${name}`);
const x509 = { cert: fixture('server-cert.pem'), key: fixture('server-key.pem'), ca: fixture('ca-cert.pem') };

async function ours(kind: Kind, socket: string): Promise<void> {
  const tls: NbdTlsOptions =
    kind === 'x509'
      ? { mode: 'require', x509: { ...x509, verifyPeer: true } }
      : { mode: 'require', psk: { keys: parsePskKeys(`alice:${KEY}`, 'keys') } };
  await serve('', await memoryDisk(MIB), { listen: { path: socket }, tls });
}

async function nbdkit(kind: Kind, socket: string): Promise<void> {
  const how =
    kind === 'x509' ? [`--tls-certificates=${certificates}`, '--tls-verify-peer'] : [`--tls-psk=${pskFile}`];
  await lab.start('nbdkit', socket, ['-f', '-U', socket, '--tls=require', ...how, 'memory', '1M']);
}

async function qemuNbd(kind: Kind, socket: string): Promise<void> {
  const directory = kind === 'x509' ? certificates : lab.path('qemu-psk');
  if (kind === 'psk') {
    await mkdir(directory, { recursive: true });
    await writeFile(`${directory}/keys.psk`, `alice:${KEY}\n`);
  }
  const object = `tls-creds-${kind},id=tls0,endpoint=server,dir=${directory}${kind === 'x509' ? ',verify-peer=yes' : ''}`;
  const file = await lab.file(`${kind}.raw`, MIB);
  const how = ['--object', object, '--tls-creds', 'tls0', '-t', '-f', 'raw', '-e', '8', '-k', socket, file];
  await lab.start('qemu-nbd', socket, how);
}

const kinds = [
  { server: 'ours', here: true, start: ours },
  { server: 'nbdkit', here: hasServer('nbdkit'), start: nbdkit },
  { server: 'qemu-nbd', here: hasServer('qemu-nbd'), start: qemuNbd },
];

let sockets = 0;

async function started(kind: Kind, start: (kind: Kind, socket: string) => Promise<void>): Promise<string> {
  const socket = lab.path(`tls-${sockets++}`);
  await start(kind, socket);
  return encodeURIComponent(socket);
}

const once: NbdClientOptions = { reconnectTimeoutMs: 0, connectTimeoutMs: 5000 };

async function expectWhole(uri: string, options: NbdClientOptions = once): Promise<void> {
  const storage = await openNbd(uri, options);
  const bytes = Buffer.from(Array.from({ length: 500_000 }, (_, at) => at & 255));
  await storage.write(1000, bytes);
  const target = Buffer.alloc(bytes.length);
  await storage.read(1000, target);
  expect(target.equals(bytes)).toBe(true);
  await storage.flush();
  await storage.close();
}

/** The code and field of what an open rejects with. */
async function refusal(uri: string): Promise<unknown> {
  try {
    await (await openNbd(uri, once)).close();
  } catch (error) {
    return (error as { code?: unknown }).code;
  }
  return 'no error';
}

describe.each(kinds)('over TLS to $server', ({ here, start }) => {
  it.skipIf(!here)('certificates of both sides are shown and looked at', async () => {
    const socket = await started('x509', start);
    const uri = `nbds+unix:///?socket=${socket}`;
    await expectWhole(`${uri}&tls-certificates=${certificates}&tls-hostname=localhost`);
    await expectWhole(`${uri}&tls-certificates=${certificates}`);
    expect(await refusal(`${uri}&tls-certificates=${certificates}&tls-hostname=example.com`)).toBe('ERR_TLS');
    // Not an authority that this machine trusts.
    expect(await refusal(uri)).toBe('ERR_TLS');
    expect(await refusal(`nbd+unix:///?socket=${socket}`)).toBe('ERR_TLS');
    const withoutOurs = await refusal(`${uri}&tls-certificates=${clientOnly}`);
    expect(['ERR_TLS', 'ERR_CONNECTION_LOST']).toContain(withoutOurs);
  });

  it.skipIf(!here)('a key that both know is enough, and a wrong one is not', async () => {
    const socket = await started('psk', start);
    const uri = `nbds+unix://alice@/?socket=${socket}`;
    await expectWhole(`${uri}&tls-psk-file=${pskFile}`);
    const psk = new Map([['alice', Buffer.from(KEY, 'hex')]]);
    await expectWhole(`${uri}&tls-type=psk`, { ...once, tls: { psk } });
    const wrong = await refusal(`${uri}&tls-psk-file=${wrongPskFile}`);
    expect(['ERR_TLS', 'ERR_CONNECTION_LOST']).toContain(wrong);
    expect(await refusal(`${uri.replace('alice', 'bob')}&tls-psk-file=${pskFile}`)).toBe('ERR_TLS');
    expect(await refusal(`${uri}&tls-type=psk`)).toBe('ERR_TLS');
    expect(await refusal(`${uri}&tls-psk-file=/nonexistent`)).toBe('ERR_NOT_FOUND');
  });
});

describe('over TCP', () => {
  it('the certificate has to name the host', async () => {
    const listen = { host: '127.0.0.1', port: 0 };
    const { uri } = await serve('', await memoryDisk(MIB), { listen, tls: { mode: 'require', x509 } });
    const { port } = new URL(uri);
    const query = `?tls-certificates=${certificates}`;
    await expectWhole(`nbds://127.0.0.1:${port}/${query}`);
    await expectWhole(`nbds://localhost:${port}/${query}`);
    expect(await refusal(`nbds://127.0.0.2:${port}/${query}`)).toMatch(/ERR_(?:IO|TLS)/);
    expect(await refusal(`nbds://127.0.0.1:${port}/${query}&tls-hostname=example.com`)).toBe('ERR_TLS');
    await expectWhole(`nbds://127.0.0.1:${port}/${query}&tls-hostname=example.com&tls-verify-peer=0`);
  });
});

describe('a server without TLS', () => {
  it.skipIf(!hasServer('nbdkit'))('is not talked to by nbds', async () => {
    const { uri } = await lab.start('nbdkit', lab.path('plain'), [
      '-f',
      '-U',
      lab.path('plain'),
      'memory',
      '1M',
    ]);
    const secure = uri.replace('nbd+unix', 'nbds+unix');
    expect(await codeOf(() => openNbd(`${secure}&tls-certificates=${certificates}`, once))).toBe('ERR_TLS');
  });
});
