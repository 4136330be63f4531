import { execFile, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect, type ConnectionOptions } from 'node:tls';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from 'vitest';
import { NbdServer, type NbdTlsOptions, parsePskKeys } from '../src/index.ts';
import { Command, Option, OPTION_MAGIC, OptionReply } from '../src/protocol.ts';
import { u32, u64 } from './bytes.ts';
import { TestClient } from './client.ts';
import { memoryDisk, pattern, scratchFolder, serve, type Served } from './serving.ts';

/* The certificates of test/fixtures/tls are of an authority whose key is gone; they are good until 2126. */

const run = promisify(execFile);
const folder = scratchFolder();
const MIB = 1024 * 1024;
const fixture = (name: string): Buffer => readFileSync(new URL(`fixtures/tls/${name}`, import.meta.url));
const ca = fixture('ca-cert.pem');
const x509 = { cert: fixture('server-cert.pem'), key: fixture('server-key.pem'), ca };
const KEY = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff';
const keys = parsePskKeys(`# clients\nalice:${KEY}\n`, 'keys.psk');

const asClient = { cert: fixture('client-cert.pem'), key: fixture('client-key.pem') };
const asStranger = { cert: fixture('stranger-cert.pem'), key: fixture('stranger-key.pem') };
const asAlice: ConnectionOptions = {
  ciphers: 'ECDHE-PSK-CHACHA20-POLY1305',
  maxVersion: 'TLSv1.2',
  checkServerIdentity: () => undefined,
  pskCallback: () => ({ identity: 'alice', psk: Buffer.from(KEY, 'hex') }),
};

async function serveTls(tls: NbdTlsOptions): Promise<Served> {
  return serve(folder, await memoryDisk(MIB), { tls });
}

/** Asks for TLS and begins it; rejects when either side will not have the other. */
async function upgrade(nbd: TestClient, options: ConnectionOptions = {}): Promise<void> {
  await nbd.expectAck(Option.starttls);
  const plain = nbd.socket;
  plain.removeAllListeners('data');
  const secure = connect({ socket: plain, ca, servername: 'localhost', ...options });
  await new Promise<void>((resolve, reject) => {
    secure.once('secureConnect', resolve);
    secure.once('error', reject);
    plain.once('close', () => reject(new Error('closed')));
  });
  nbd.use(secure);
}

async function expectWhole(nbd: TestClient): Promise<void> {
  await nbd.go('');
  const payload = pattern(200_000);
  expect((await nbd.request({ type: Command.write, offset: 100, payload })).error).toBe(0);
  const { data } = await nbd.request({ type: Command.read, offset: 100, length: payload.length });
  expect(data.equals(payload)).toBe(true);
  nbd.close();
}

describe('a server that requires TLS', () => {
  it('refuses every option before it, and none after it', async () => {
    const { uri } = await serveTls({ mode: 'require', x509 });
    expect(uri).toMatch(/^nbds\+unix:/);
    const nbd = await TestClient.connect(uri);
    for (const option of [Option.list, Option.go, Option.structuredReply, 77]) {
      expect(await nbd.verdict(option)).toBe(OptionReply.errTlsRequired);
    }
    await upgrade(nbd);
    expect(await nbd.verdict(Option.starttls)).toBe(OptionReply.errInvalid);
    expect(await nbd.verdict(77)).toBe(OptionReply.errUnsupported);
    await expectWhole(nbd);
  });

  it('ends who names an export before it', async () => {
    const { uri } = await serveTls({ mode: 'require', x509 });
    const nbd = await TestClient.connect(uri);
    nbd.sendOption(Option.exportName);
    expect((await nbd.untilClosed()).length).toBe(0);
  });
});

describe('a server that allows TLS', () => {
  it.each([true, false])('serves with it and without it: %s', async (withTls) => {
    const { uri } = await serveTls({ mode: 'allow', x509 });
    const nbd = await TestClient.connect(uri);
    if (withTls) await upgrade(nbd);
    await expectWhole(nbd);
  });

  it('forgets what was agreed upon in plain text', async () => {
    const { uri } = await serveTls({ mode: 'allow', x509 });
    const nbd = await TestClient.connect(uri);
    await nbd.expectAck(Option.structuredReply);
    await upgrade(nbd);
    expect(await nbd.verdict(Option.structuredReply)).toBe(OptionReply.ack);
    nbd.close();
  });

  it('ends a connection in which plain text came behind STARTTLS', async () => {
    const { uri, troubles } = await serveTls({ mode: 'allow', x509 });
    const nbd = await TestClient.connect(uri);
    const option = (number: number): Buffer => Buffer.concat([u64(OPTION_MAGIC), u32(number), u32(0)]);
    nbd.send(option(Option.starttls), option(Option.list));
    expect((await nbd.untilClosed()).length).toBe(0);
    expect(troubles.join()).toContain('behind STARTTLS');
  });

  it('ends a connection in which plain text comes in place of TLS', async () => {
    const { uri, troubles } = await serveTls({ mode: 'allow', x509 });
    const nbd = await TestClient.connect(uri);
    await nbd.expectAck(Option.starttls);
    nbd.sendOption(Option.list);
    await nbd.untilClosed();
    expect(troubles.length).toBeGreaterThan(0);
    await expectWhole(await TestClient.connect(uri));
  });
});

describe('who a client is', () => {
  it.each([
    ['a certificate of the authority', asClient, true],
    ['a certificate of its own making', asStranger, false],
    ['no certificate', {}, false],
  ])('is shown by %s', async (_, options, isLetIn) => {
    const { uri } = await serveTls({ mode: 'require', x509: { ...x509, verifyPeer: true } });
    const nbd = await TestClient.connect(uri);
    // With TLS 1.3 the client learns of it from the first thing it reads.
    const served = upgrade(nbd, options).then(() => expectWhole(nbd));
    await (isLetIn ? expect(served).resolves.toBeUndefined() : expect(served).rejects.toThrow());
    nbd.close();
  });

  it.each([
    ['the key', asAlice, true],
    ['another key', { ...asAlice, pskCallback: () => ({ identity: 'alice', psk: Buffer.alloc(32) }) }, false],
    [
      'the key of nobody',
      { ...asAlice, pskCallback: () => ({ identity: 'bob', psk: Buffer.from(KEY, 'hex') }) },
      false,
    ],
  ])('is shown by %s', async (_, options, isLetIn) => {
    for (const tls of [
      { mode: 'require', psk: { keys } } as const,
      { mode: 'require', psk: { keys }, x509 } as const,
    ]) {
      const { uri } = await serveTls(tls);
      const nbd = await TestClient.connect(uri);
      const served = upgrade(nbd, options).then(() => expectWhole(nbd));
      await (isLetIn ? expect(served).resolves.toBeUndefined() : expect(served).rejects.toThrow());
      nbd.close();
    }
  });
});

describe('options that cannot be', () => {
  it.each<[string, NbdTlsOptions]>([
    ['neither', { mode: 'require' }],
    ['no keys', { mode: 'require', psk: { keys: new Map() } }],
    ['no ca', { mode: 'require', x509: { cert: x509.cert, key: x509.key, verifyPeer: true } }],
    ['another key', { mode: 'require', x509: { ...x509, key: asClient.key } }],
    ['no PEM', { mode: 'require', x509: { ...x509, cert: 'certificate' } }],
  ])('are refused: %s', async (_, tls) => {
    await expect(serveTls(tls)).rejects.toMatchObject({ code: 'ERR_INVALID_OPTION' });
  });

  it.each(['alice', 'alice:', ':00', 'alice:0', 'alice:xx'])('a line of keys may not be %s', (line) => {
    expect(() => parsePskKeys(`bob:00\n${line}\n`, 'keys.psk')).toThrow(/keys\.psk: line 2/);
  });

  it.each<[string, object]>([
    ['a remote address', { listen: { host: '0.0.0.0', port: 0 } }],
    ['a remote address in plain text', { listen: { host: '0.0.0.0', port: 0 }, allowRemote: true }],
    [
      'a remote address whose TLS is optional',
      { listen: { host: '::', port: 0 }, allowRemote: true, tls: { mode: 'allow', x509 } },
    ],
    ['too little memory', { memoryBytes: 1 }],
    ['no exports', { exports: [] }],
  ])('%s needs to be asked for', async (_, options) => {
    await expect(serve(folder, await memoryDisk(MIB), options)).rejects.toMatchObject({
      code: 'ERR_INVALID_OPTION',
    });
  });

  it('a remote address that was asked for is served', async () => {
    const disk = await memoryDisk(MIB);
    const server = await NbdServer.listen({
      exports: [{ name: '', disk, readOnly: false }],
      listen: { host: '0.0.0.0', port: 0 },
      allowRemote: true,
      tls: { mode: 'require', x509 },
    });
    expect(server.uri).toMatch(/^nbds:\/\/0\.0\.0\.0:\d+\/$/);
    await server.close();
  });
});

/** Under CI=true a missing judge is a failure, so its tests run and fail. */
function hasJudge(program: string): boolean {
  const found = spawnSync(program, ['--version'], { stdio: 'ignore' }).status === 0;
  if (!found) console.warn(`${program} is not installed; the tests that need it are skipped`);
  return found || process.env.CI === 'true';
}

describe('foreign clients', () => {
  const pki = join(folder, 'pki');

  beforeAll(() => {
    mkdirSync(pki);
    for (const name of ['ca-cert.pem', 'client-cert.pem', 'client-key.pem']) {
      writeFileSync(join(pki, name), fixture(name));
    }
    writeFileSync(join(pki, 'keys.psk'), `alice:${KEY}\n`);
  });

  it.skipIf(!hasJudge('nbdinfo')).each([
    ['certificates', (socket: string) => `nbds+unix:///?socket=${socket}&tls-certificates=${pki}`],
    ['keys', (socket: string) => `nbds+unix://alice@/?socket=${socket}&tls-psk-file=${pki}/keys.psk`],
  ])('libnbd comes with %s', async (_, uriFor) => {
    const verified = { ...x509, verifyPeer: true };
    const { uri } = await serveTls({ mode: 'require', x509: verified, psk: { keys } });
    const socket = new URL(uri).searchParams.get('socket')!;
    const { stdout } = await run('nbdinfo', [uriFor(socket)]);
    expect(stdout).toContain('newstyle-fixed with TLS, using structured packets');
    await expect(run('nbdinfo', [`nbd+unix:///?socket=${socket}`])).rejects.toThrow('not supported');
  });

  it.skipIf(!hasJudge('qemu-img')).each([
    [`tls-creds-x509,id=tls,endpoint=client,dir=${pki}`, 'certificates'],
    [`tls-creds-psk,id=tls,endpoint=client,username=alice,dir=${pki}`, 'keys'],
  ])('QEMU comes with %s', async (credentials) => {
    const disk = await memoryDisk(MIB);
    const served = await serve(folder, disk, {
      listen: { port: 0 },
      tls: { mode: 'require', x509: { ...x509, verifyPeer: true }, psk: { keys } },
    });
    const target = `driver=nbd,host=localhost,port=${new URL(served.uri).port},tls-creds=tls`;
    const { stdout } = await run('qemu-img', ['info', '--object', credentials, '--image-opts', target]);
    expect(stdout).toContain('virtual size: 1 MiB');
  });
});
