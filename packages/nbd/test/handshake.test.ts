import { describe, expect, it } from 'vitest';
import { Command, Info, Option, OptionReply, TransmissionFlag } from '../src/protocol.ts';
import { u16, u32, u64 } from './bytes.ts';
import { TestClient, text } from './client.ts';
import { memoryDisk, pattern, scratchFolder, serve, type Served } from './serving.ts';

const folder = scratchFolder();
const MIB = 1024 * 1024;

async function threeExports(): Promise<Served> {
  const disk = await memoryDisk(MIB);
  return serve(folder, disk, {
    exports: [
      { name: '', disk, readOnly: false },
      { name: 'größer', description: 'a larger one', disk: await memoryDisk(2 * MIB), readOnly: false },
      { name: 'fixed', disk, readOnly: true },
    ],
  });
}

describe('options', () => {
  it('exports are listed with their descriptions', async () => {
    const { uri } = await threeExports();
    const nbd = await TestClient.connect(uri);
    const answers = await nbd.option(Option.list);
    const listed = answers.filter(({ type }) => type === OptionReply.server).map(({ data }) => data);
    expect(listed).toEqual([
      text(''),
      Buffer.concat([text('größer'), Buffer.from('a larger one')]),
      text('fixed'),
    ]);
    expect(answers.at(-1)?.type).toBe(OptionReply.ack);
    nbd.close();
  });

  it('INFO tells about an export and goes on, GO begins', async () => {
    const { uri } = await threeExports();
    const nbd = await TestClient.connect(uri);
    const facts = await nbd.info(Option.info, 'größer', [Info.name, Info.description, 99]);
    expect(facts).toMatchObject({ size: 2 * MIB, name: 'größer', description: 'a larger one' });
    const { blockSizes, flags } = await nbd.go('fixed');
    expect(blockSizes?.[0]).toBe(1);
    expect(blockSizes?.[2]).toBe(32 * MIB);
    expect(flags & TransmissionFlag.readOnly).toBe(TransmissionFlag.readOnly);
    expect(flags & (TransmissionFlag.sendTrim | TransmissionFlag.sendDf)).toBe(0);
    expect((await nbd.request({ type: Command.read, length: 10 })).error).toBe(0);
    nbd.close();
  });

  it.each([
    [3, 10],
    [1, 134],
    [0, 134],
  ])('EXPORT_NAME of a client with flags %i is answered with %i bytes', async (flags, bytes) => {
    const { uri } = await threeExports();
    const nbd = await TestClient.connect(uri, flags);
    nbd.sendOption(Option.exportName, Buffer.from('größer'));
    const about = await nbd.read(bytes);
    expect(about.readBigUInt64BE(0)).toBe(BigInt(2 * MIB));
    const payload = pattern(512);
    expect((await nbd.request({ type: Command.write, payload })).error).toBe(0);
    expect((await nbd.request({ type: Command.read, length: 512 })).data.equals(payload)).toBe(true);
    nbd.close();
  });

  it.each([
    ['unknown', 4711, Buffer.alloc(100), OptionReply.errUnsupported],
    ['peek', 4, Buffer.alloc(0), OptionReply.errUnsupported],
    ['long', Option.info, Buffer.alloc(100_000), OptionReply.errTooBig],
    ['list with data', Option.list, Buffer.alloc(1), OptionReply.errInvalid],
    ['unknown export', Option.go, Buffer.concat([text('nobody'), u16(0)]), OptionReply.errUnknown],
    ['short info', Option.info, u32(0), OptionReply.errInvalid],
    ['name past the end', Option.go, Buffer.concat([u32(1000), u16(0)]), OptionReply.errInvalid],
    ['name too long', Option.go, Buffer.concat([text('x'.repeat(4097)), u16(0)]), OptionReply.errInvalid],
    ['name with a NUL', Option.go, Buffer.concat([text('a\0'), u16(0)]), OptionReply.errInvalid],
    [
      'name no UTF-8',
      Option.go,
      Buffer.concat([u32(1), Buffer.from([0xff]), u16(0)]),
      OptionReply.errInvalid,
    ],
    ['more data than said', Option.info, Buffer.concat([text(''), u16(0), u16(0)]), OptionReply.errInvalid],
    ['fewer kinds than said', Option.info, Buffer.concat([text(''), u16(2), u16(0)]), OptionReply.errInvalid],
    [
      'contexts of simple replies',
      Option.setMetaContext,
      Buffer.concat([text(''), u32(0)]),
      OptionReply.errInvalid,
    ],
    ['STARTTLS without TLS', Option.starttls, Buffer.alloc(0), OptionReply.errPolicy],
    ['structured reply with data', Option.structuredReply, Buffer.alloc(1), OptionReply.errInvalid],
  ])('%s: is refused, and the next option is answered', async (_, option, data, error) => {
    const { uri } = await threeExports();
    const nbd = await TestClient.connect(uri);
    expect(await nbd.verdict(option, data)).toBe(error);
    expect((await nbd.go('')).size).toBe(MIB);
    nbd.close();
  });

  it('replies are agreed upon once, and extended ones stay', async () => {
    const { uri } = await threeExports();
    const nbd = await TestClient.connect(uri);
    expect(await nbd.verdict(Option.structuredReply)).toBe(OptionReply.ack);
    expect(await nbd.verdict(Option.structuredReply)).toBe(OptionReply.errInvalid);
    expect(await nbd.verdict(Option.extendedHeaders)).toBe(OptionReply.ack);
    expect(await nbd.verdict(Option.extendedHeaders)).toBe(OptionReply.errInvalid);
    expect(await nbd.verdict(Option.structuredReply)).toBe(OptionReply.errExtendedHeadersRequired);
    nbd.close();
  });

  it('contexts are listed by namespace, selected by name, and forgotten for another export', async () => {
    const { uri } = await threeExports();
    const nbd = await TestClient.connect(uri);
    await nbd.expectAck(Option.structuredReply);
    nbd.mode = 'structured';
    const ask = (...queries: string[]): Buffer =>
      Buffer.concat([text(''), u32(queries.length), ...queries.map((query) => text(query))]);
    const namesOf = async (option: number, ...queries: string[]): Promise<string[]> =>
      (await nbd.option(option, ask(...queries)))
        .filter(({ type }) => type === OptionReply.metaContext)
        .map(({ data }) => data.subarray(4).toString());
    const both = ['base:allocation', 'qemu:allocation-depth'];
    expect(await namesOf(Option.listMetaContext)).toEqual(both);
    expect(await namesOf(Option.listMetaContext, 'qemu:')).toEqual(both.slice(1));
    expect(await namesOf(Option.setMetaContext, 'base:', 'x:y')).toEqual([]);
    expect(await namesOf(Option.setMetaContext, ...both)).toEqual(both);
    await nbd.go('größer');
    expect((await nbd.request({ type: Command.blockStatus, length: 512 })).error).toBe(22);
    nbd.close();
  });

  it('ABORT is acknowledged, and ends the connection', async () => {
    const { uri } = await threeExports();
    const nbd = await TestClient.connect(uri);
    expect(await nbd.verdict(Option.abort)).toBe(OptionReply.ack);
    expect((await nbd.untilClosed()).length).toBe(0);
  });

  it('options that come all at once are answered one after the other', async () => {
    const { uri } = await threeExports();
    const nbd = await TestClient.connect(uri, null);
    const option = (number: number): Buffer => Buffer.concat([u64(0x49484156454f5054n), u32(number), u32(0)]);
    nbd.send(u32(3), ...Array.from({ length: 900 }, () => option(Option.list)));
    for (let index = 0; index < 900; index++) {
      expect((await nbd.optionReplies(Option.list)).length).toBe(4);
    }
    nbd.close();
  });
});

describe('who does not speak NBD is disconnected', () => {
  const optionHead = (option: number, length: number): Buffer =>
    Buffer.concat([u64(0x49484156454f5054n), u32(option), u32(length)]);

  it.each([
    ['unknown client flags', [u32(4)]],
    ['no option', [u32(3), Buffer.from('GET / HTTP/1.1\r\n\r\n')]],
    ['an unknown export by EXPORT_NAME', [u32(3), optionHead(Option.exportName, 6), Buffer.from('nobody')]],
    ['an option without fixed newstyle', [u32(0), optionHead(Option.list, 0)]],
    ['an option of 2 GiB', [u32(3), optionHead(77, 2 ** 31)]],
    ['a long EXPORT_NAME', [u32(3), optionHead(Option.exportName, 70_000)]],
    ['too many options', [u32(3), ...Array.from({ length: 1001 }, () => optionHead(77, 0))]],
    ['no request', [u32(3), optionHead(Option.exportName, 0), Buffer.from('GET /')]],
  ])('%s', async (_, parts) => {
    const { uri, server, troubles } = await threeExports();
    const nbd = await TestClient.connect(uri, null);
    nbd.send(...parts);
    await nbd.untilClosed();
    expect(troubles.length).toBe(1);
    const other = await TestClient.open(uri);
    expect((await other.request({ type: Command.read, length: 1 })).error).toBe(0);
    expect(server.stats().totalConnections).toBe(2);
    other.close();
  });
});
