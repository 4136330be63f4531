// `cowlab serve` as a process of its own, started from the build.

import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, readFile, writeFile } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { fileURLToPath } from 'node:url';
import { openDisk } from '@cowlab/core';
import { openNbd } from '@cowlab/nbd';
import { afterEach, describe, expect, it } from 'vitest';
import { drivers } from '../src/formats.ts';
import { fill, formats, formatsWith, makeSample, MiB } from './images.ts';
import { contradictions } from './json-schema.ts';
import { cowlab, mustRun, scratch } from './lab.ts';

const at = scratch();
const program = fileURLToPath(new URL('../dist/cowlab.js', import.meta.url));
const withSnapshots = formatsWith(({ snapshots }) => snapshots !== 'none');

interface Ending {
  readonly status: number | null;
  readonly stderr: string;
}

interface Serving {
  /** The first line that it printed. */
  readonly line: string;
  readonly child: ChildProcessWithoutNullStreams;
  /** What it said on stderr until now. */
  readonly stderr: () => string;
  readonly ended: Promise<Ending>;
}

const running: ChildProcessWithoutNullStreams[] = [];

afterEach(async () => {
  for (const child of running.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});

/** Starts it and waits until clients can come, or until it has ended. */
async function starting(...argv: string[]): Promise<Serving> {
  const child = spawn(process.execPath, [program, 'serve', ...argv]);
  running.push(child);
  let [stdout, stderr] = ['', ''];
  child.stderr.on('data', (part) => (stderr += part));
  const ended = once(child, 'close').then(
    ([status]): Ending => ({ status: status as number | null, stderr }),
  );
  await new Promise<void>((resolve) => {
    child.stdout.on('data', (part) => {
      stdout += part;
      if (stdout.includes('\n')) resolve();
    });
    void ended.then(() => resolve());
  });
  return { line: stdout.trimEnd(), child, stderr: () => stderr, ended };
}

/** On a Unix socket; goes on until it is ended. */
const serving = (...argv: string[]): Promise<Serving> =>
  starting('--persistent', '--socket', at('socket'), ...argv);

async function terminate({ child, ended }: Serving): Promise<Ending> {
  child.kill('SIGTERM');
  return ended;
}

/** The one line of a start that failed. */
async function refused(...argv: string[]): Promise<string> {
  const { status, stderr } = await (await starting(...argv)).ended;
  expect(status).toBe(1);
  expect(stderr).toMatch(/^cowlab: [^\n]+\n$/);
  return stderr;
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5));
}

describe.each(formats)('serve, with an image of %s', (format) => {
  it('says where, lets clients read and write, and ends by SIGTERM with everything in the image', async () => {
    await makeSample(at('disk'), format);
    await makeSample(at('copy'), 'raw');
    const server = await serving('-f', format, at('disk'));
    expect(server.line).toBe(`nbd+unix:///?socket=${at('socket')}`);
    await mustRun('compare', '-q', '-f', 'raw', '-F', 'raw', server.line, at('copy'));
    const storage = await openNbd(server.line);
    await storage.write(3 * MiB + 7, new Uint8Array(1000).fill(9));
    // Not flushed by the client, who is still there: that is what the server does in the end.
    expect(await terminate(server)).toEqual({ status: 0, stderr: '' });
    await storage.close();
    await fill(at('copy'), 'raw', 3 * MiB + 7, 1000, 9);
    await mustRun('compare', '-q', '-f', format, at('disk'), at('copy'));
    expect((await cowlab('check', '-q', '-f', format, at('disk'))).status).toBe(0);
    expect(await exists(at('socket'))).toBe(false);
  });

  it('and --io threads lets them do the same', async () => {
    await makeSample(at('disk'), format);
    await makeSample(at('copy'), 'raw');
    const server = await serving('--io', 'threads', '-f', format, at('disk'));
    await fill(at('copy'), 'raw', 7 * MiB, MiB, 6);
    await mustRun('convert', '-n', '-O', 'raw', '-f', 'raw', at('copy'), server.line);
    expect(await terminate(server)).toEqual({ status: 0, stderr: '' });
    await mustRun('compare', '-q', '-f', format, at('disk'), at('copy'));
  });

  it('--read-only refuses changes, and may be done twice', async () => {
    await makeSample(at('disk'), format);
    const before = await readFile(at('disk'));
    const server = await serving('--read-only', '-f', format, at('disk'));
    const other = await starting('-r', '-t', '-k', at('other'), '-f', format, at('disk'));
    await mustRun('compare', '-q', server.line, other.line);
    await expect(openNbd(server.line)).rejects.toMatchObject({ code: 'ERR_READ_ONLY' });
    for (const each of [server, other]) expect(await terminate(each)).toEqual({ status: 0, stderr: '' });
    expect(Buffer.compare(await readFile(at('disk')), before)).toBe(0);
  });
});

describe.each(withSnapshots)('serve, with snapshots of %s', (format) => {
  async function makeHistory(): Promise<void> {
    await makeSample(at('disk'), format);
    for (const [index, name] of ['one', 'two'].entries()) {
      await mustRun('snapshot', '-c', name, at('disk'));
      await fill(at('disk'), format, MiB, 1000, 50 + index);
      await mustRun('convert', '-l', name, at('disk'), at(name));
    }
  }

  it('--snapshot serves that one, to be read', async () => {
    await makeHistory();
    const server = await serving('--snapshot', 'one', at('disk'));
    await mustRun('compare', '-q', '-f', 'raw', server.line, at('one'));
    await expect(openNbd(server.line)).rejects.toMatchObject({ code: 'ERR_READ_ONLY' });
    await terminate(server);
    expect(await refused('-k', at('socket'), '-l', 'absent', at('disk'))).toContain('no such snapshot');
  });

  it('--with-snapshots serves every one by its name, beside the disk that goes on', async () => {
    await makeHistory();
    const server = await serving('--with-snapshots', '--json', at('disk'));
    const told: unknown = JSON.parse(server.line);
    expect(contradictions(told, 'serve')).toEqual([]);
    expect(told).toMatchObject({
      uri: `nbd+unix:///?socket=${at('socket')}`,
      pid: server.child.pid,
      exports: [
        { name: '', 'virtual-size': 16 * MiB, 'read-only': false },
        { name: 'one', 'virtual-size': 16 * MiB, 'read-only': true },
        { name: 'two', 'virtual-size': 16 * MiB, 'read-only': true },
      ],
    });
    const uri = (name: string): string => `nbd+unix:///${name}?socket=${at('socket')}`;
    await writeFile(at('full'), new Uint8Array(16 * MiB).fill(3));
    await mustRun('convert', '-n', '-O', 'raw', at('full'), uri(''));
    for (const name of ['one', 'two']) await mustRun('compare', '-q', '-f', 'raw', uri(name), at(name));
    expect((await terminate(server)).status).toBe(0);
    for (const name of ['one', 'two']) {
      await mustRun('convert', '--force', '-l', name, at('disk'), at('again'));
      await mustRun('compare', '-q', at('again'), at(name));
    }
  });
});

describe('serve', () => {
  it('gives several files names, their own or others', async () => {
    for (const name of ['a', 'b'])
      await mustRun('create', '-q', '-f', 'fvd', at(name), name === 'a' ? '1M' : '2M');
    await mustRun('snapshot', '-c', 'old', at('b'));
    const names = async (...argv: string[]): Promise<unknown> => {
      const server = await serving('--json', '--with-snapshots', ...argv, at('a'), at('b'));
      await terminate(server);
      return (JSON.parse(server.line) as { exports: { name: string }[] }).exports.map(({ name }) => name);
    };
    expect(await names()).toEqual(['a', 'b', 'b@old']);
    expect(await names('-x', '', '-x', 'second')).toEqual(['', 'second', 'second@old']);
    expect(await refused('-k', at('socket'), '-x', 'one', at('a'), at('b'))).toContain('1 names for 2 files');
  });

  it('without --persistent, ends when the last client has gone', async () => {
    await makeSample(at('disk'), 'fvd');
    const server = await starting('--socket', at('socket'), '-x', 'disk', at('disk'));
    expect(server.line).toBe(`nbd+unix:///disk?socket=${at('socket')}`);
    const [one, other] = [await openNbd(server.line), await openNbd(server.line)];
    await one.close();
    await other.write(0, new Uint8Array(512).fill(7));
    await other.close();
    expect(await server.ended).toEqual({ status: 0, stderr: '' });
    const disk = await openDisk(at('disk'), { drivers });
    const bytes = new Uint8Array(512);
    await disk.read(0, bytes);
    await disk.close();
    expect(bytes).toEqual(new Uint8Array(512).fill(7));
  });

  it('with --persistent, goes on', async () => {
    await makeSample(at('disk'), 'qcow2');
    const server = await serving(at('disk'));
    for (let round = 0; round < 3; round += 1) await (await openNbd(server.line)).close();
    expect(server.child.exitCode).toBe(null);
    server.child.kill('SIGINT');
    expect(await server.ended).toEqual({ status: 0, stderr: '' });
  });

  it('has the pid file exactly while clients can come', async () => {
    await makeSample(at('disk'), 'fvd');
    const argv = ['-q', '-t', '-k', at('socket'), '--pid-file', at('pid'), at('disk')];
    // Quiet, so that the file is the only way to know.
    const begun = starting(...argv);
    await until(() => exists(at('pid')));
    const pid = Number(await readFile(at('pid'), 'utf8'));
    await mustRun('info', `nbd+unix:///?socket=${at('socket')}`);
    process.kill(pid, 'SIGTERM');
    expect(await (await begun).ended).toEqual({ status: 0, stderr: '' });
    expect(await exists(at('pid'))).toBe(false);
    expect(await refused('-k', at('socket'), '--pid-file', at('no/pid'), at('disk'))).toContain(
      'no/pid: write',
    );
    expect(await exists(at('socket'))).toBe(false);
  });

  it('says on SIGUSR1 what has happened, as the schema has it', async () => {
    await makeSample(at('disk'), 'qcow2');
    const server = await serving(at('disk'));
    const storage = await openNbd(server.line);
    await storage.write(0, new Uint8Array(4096).fill(1));
    await storage.flush();
    await storage.read(0, new Uint8Array(512));
    const lines: unknown[] = [];
    for (let count = 1; count <= 2; count += 1) {
      server.child.kill('SIGUSR1');
      await until(() => server.stderr().split('\n').length > count);
      lines.push(JSON.parse(server.stderr().split('\n')[count - 1] ?? ''));
    }
    await storage.close();
    for (const line of lines) expect(contradictions(line, 'serve-statistics')).toEqual([]);
    expect(lines[1]).toMatchObject({
      uri: server.line,
      connections: 1,
      'total-connections': 1,
      requests: { write: 1, read: 1, flush: 1 },
      'read-bytes': 512,
      'written-bytes': 4096,
      errors: 0,
      images: [{ filename: at('disk'), format: 'qcow2' }],
    });
    await terminate(server);
  });

  it('takes a socket that a killed server has left, and no other', async () => {
    await makeSample(at('disk'), 'fvd');
    await makeSample(at('other'), 'fvd');
    const first = await serving(at('disk'));
    expect(await refused('-k', at('socket'), at('other'))).toContain('address already in use');
    await mustRun('info', first.line);
    first.child.kill('SIGKILL');
    await first.ended;
    const second = await serving(at('disk'));
    await mustRun('info', second.line);
    await terminate(second);
    await writeFile(at('socket'), 'precious');
    expect(await refused('-k', at('socket'), at('disk'))).toContain('address already in use');
    expect(await readFile(at('socket'), 'utf8')).toBe('precious');
  });

  it('listens on TCP, on loopback unless more is allowed twice', async () => {
    await makeSample(at('disk'), 'raw');
    const server = await starting('-t', '--port', '0', at('disk'));
    expect(server.line).toMatch(/^nbd:\/\/127\.0\.0\.1:\d+\/$/);
    await mustRun('compare', '-q', '-U', '-f', 'raw', server.line, at('disk'));
    await terminate(server);
    const wide = ['-t', '--port', '0', '--host', '0.0.0.0', at('disk')];
    for (const argv of [wide, ['--allow-remote', ...wide]]) {
      expect(await refused(...argv)).toContain('--allow-remote allows it, with --tls-… or --allow-plaintext');
    }
    const remote = await starting('--allow-remote', '--allow-plaintext', ...wide);
    expect(remote.line).toMatch(/^nbd:\/\/0\.0\.0\.0:\d+\/$/);
    await terminate(remote);
  });

  it('asks for the key of --tls-psk, unless TLS is only allowed', async () => {
    await makeSample(at('disk'), 'fvd');
    await writeFile(at('keys'), `alice:${'0a'.repeat(32)}\n`);
    const server = await serving('--tls-psk', at('keys'), at('disk'));
    expect(server.line).toBe(`nbds+unix:///?socket=${at('socket')}`);
    const secret = (keys: string): string =>
      `nbds+unix://alice@/?socket=${at('socket')}&tls-psk-file=${at(keys)}`;
    const plain = `nbd+unix:///?socket=${at('socket')}`;
    await mustRun('info', secret('keys'));
    await writeFile(at('wrong'), `alice:${'0b'.repeat(32)}\n`);
    expect((await cowlab('info', secret('wrong'))).status).toBe(1);
    expect((await cowlab('info', plain)).status).toBe(1);
    await mustRun('info', secret('keys'));
    expect((await terminate(server)).status).toBe(0);
    const both = await serving('--tls', 'allow', '--tls-psk', at('keys'), at('disk'));
    await mustRun('info', secret('keys'));
    await mustRun('info', plain);
    await terminate(both);
    expect(await refused('-k', at('socket'), '--tls-certificates', at('none'), at('disk'))).toContain(
      'server-cert.pem: read',
    );
  });

  it('says what is wrong with a client, and goes on for others', async () => {
    await makeSample(at('disk'), 'fvd');
    const server = await serving(at('disk'));
    const stranger = createConnection({ path: at('socket') });
    stranger.on('error', () => undefined);
    stranger.write('GET / HTTP/1.1\r\n\r\n');
    await until(() => server.stderr() !== '');
    stranger.destroy();
    await mustRun('info', server.line);
    const { status, stderr } = await terminate(server);
    expect({ status, stderr }).toEqual({
      status: 0,
      stderr: expect.stringMatching(/^cowlab: nbd\+unix:[^\n]+\n$/) as string,
    });
  });

  it('--fork comes back when clients can come', async () => {
    await makeSample(at('disk'), 'fvd');
    const argv = ['--fork', '-k', at('socket'), '--pid-file', at('pid'), at('disk')];
    const starter = await starting(...argv);
    expect(await starter.ended).toEqual({ status: 0, stderr: '' });
    expect(starter.line).toBe(`nbd+unix:///?socket=${at('socket')}`);
    const pid = Number(await readFile(at('pid'), 'utf8'));
    expect(pid).not.toBe(starter.child.pid);
    await mustRun('info', starter.line);
    // That was its only client.
    await until(async () => !(await exists(at('pid'))));
    expect(await refused('--fork', '-k', at('socket'), at('absent'))).toContain('absent');
  });

  it.each([
    [['--socket', 's', '--port', '1'], '--socket: not beside --port or --host'],
    [['--port', '70000'], '--port: 70000 is above 65535'],
    [['--shared', '0'], '--shared: nobody could come'],
    [['--snapshot', 'a', '--with-snapshots'], '--snapshot: not beside --with-snapshots'],
    [['-U'], '--force-share: goes with --read-only'],
    [['--tls', 'require'], '--tls: goes with --tls-certificates or --tls-psk'],
    [['--tls-verify-peer', '--tls-psk', 'x'], '--tls-verify-peer: goes with --tls-certificates'],
    [['--io', 'uring'], 'sync, threads'],
    [['-f', 'vdi'], 'unknown format "vdi"'],
  ])('answers %j with one line', async (argv, words) => {
    const { status, stderr } = await cowlab('serve', ...argv, at('disk'));
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]+\n$/);
    expect(stderr).toContain(words);
  });
});
