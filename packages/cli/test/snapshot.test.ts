import { describe, expect, it } from 'vitest';
import type { InfoJson, SnapshotJson } from '../src/index.ts';
import { fill, formatsWith, makeSample, MiB } from './images.ts';
import { cowlab, hasJudge, judge, mustRun, scratch } from './lab.ts';

const at = scratch();
const withSnapshots = formatsWith(({ snapshots }) => snapshots !== 'none');
const renaming = formatsWith(({ renameSnapshots }) => renameSnapshots);
const withParents = formatsWith(({ snapshotParents }) => snapshotParents);

async function list(file: string): Promise<SnapshotJson[]> {
  return JSON.parse(await mustRun('snapshot', '-l', '--json', file)) as SnapshotJson[];
}

describe.each(withSnapshots)('snapshot of %s', (format) => {
  it('creates, lists, applies and deletes', async () => {
    const disk = at('disk.img');
    await makeSample(disk, format);
    await mustRun('convert', '-O', 'raw', disk, at('before'));
    expect(await mustRun('snapshot', '-c', 'first', disk)).toBe('');
    await fill(disk, format, 0, 3 * MiB, 8);
    await mustRun('snapshot', '-c', 'second', disk);
    const snapshots = await list(disk);
    expect(snapshots.map(({ name }) => name)).toEqual(['first', 'second']);
    expect(snapshots[0]).toMatchObject({
      id: expect.any(String),
      'date-sec': expect.any(Number),
      'date-nsec': expect.any(Number),
      'virtual-size': 16 * MiB,
    });
    expect(Math.abs((snapshots[0]?.['date-sec'] ?? 0) - Date.now() / 1000)).toBeLessThan(600);
    const info = JSON.parse(await mustRun('info', '--json', disk)) as InfoJson;
    expect(info.snapshots).toEqual(snapshots);

    await mustRun('snapshot', '-a', 'first', disk);
    await mustRun('compare', '-q', disk, at('before'));
    await mustRun('snapshot', '-d', 'first', disk);
    expect((await list(disk)).map(({ name }) => name)).toEqual(['second']);
    await mustRun('compare', '-q', disk, at('before'));
    await mustRun('snapshot', '-d', snapshots[1]?.id ?? '', disk);
    expect(await list(disk)).toEqual([]);
    expect((await cowlab('check', '-q', disk)).status).toBe(0);
  });

  it('lists as a table too, in info as well; nothing without snapshots', async () => {
    const disk = at('disk.img');
    await makeSample(disk, format);
    expect(await mustRun('snapshot', disk)).toBe('');
    await mustRun('snapshot', '-c', 'a name', disk);
    const table = await mustRun('snapshot', '-l', disk);
    expect(table).toMatch(/^ID +TAG +VIRTUAL SIZE +DATE \(UTC\)/);
    expect(table).toMatch(/a name +16 MiB +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/);
    expect(await mustRun('info', disk)).toContain(`Snapshot list:\n${table}`);
  });

  it.runIf(renaming.includes(format))('renames', async () => {
    const disk = at('disk.img');
    await makeSample(disk, format);
    await mustRun('snapshot', '-c', 'old', disk);
    const before = await list(disk);
    expect(await mustRun('snapshot', '-r', 'old', '--as', 'new', disk)).toBe('');
    expect(await list(disk)).toEqual(before.map((snapshot) => ({ ...snapshot, name: 'new' })));
    const { status, stderr } = await cowlab('snapshot', '-r', 'old', '--as', 'other', disk);
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: `cowlab: ${disk}: snapshot "old": no such snapshot\n`,
    });
  });

  it.each([
    [['-a', 'absent'], 'snapshot "absent": no such snapshot'],
    [['-d', 'absent'], 'snapshot "absent": no such snapshot'],
    [['-c', 'there'], 'snapshot "there": a snapshot of that name exists'],
    [['-c', ''], 'the name is empty'],
  ])('answers %j with one line that names disk and snapshot', async (argv, words) => {
    const disk = at('disk.img');
    await makeSample(disk, format);
    await mustRun('snapshot', '-c', 'there', disk);
    const { status, stderr } = await cowlab('snapshot', ...argv, disk);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]+\n$/);
    expect(stderr).toContain(`${disk}: `);
    expect(stderr).toContain(words);
  });
});

describe.each(withParents)('snapshot -l of %s', (format) => {
  it('shows the tree', async () => {
    const disk = at('disk.img');
    await makeSample(disk, format);
    const take = (name: string): Promise<string> => mustRun('snapshot', '-c', name, disk);
    for (const name of ['base', 'try', 'try again']) await take(name);
    await mustRun('snapshot', '-a', 'base', disk);
    for (const name of ['main', 'aside']) await take(name);
    await mustRun('snapshot', '-a', 'main', disk);
    await take('end');
    const rows = (await mustRun('snapshot', '-l', disk)).trimEnd().split('\n').slice(1);
    expect(rows.map((row) => row.replace(/^\d+ +/, '').replace(/ +16 MiB.*$/, ''))).toEqual([
      'base',
      '├─ try',
      '│  try again',
      'main',
      '├─ aside',
      'end',
    ]);
    const names = new Map((await list(disk)).map(({ id, name }) => [id, name]));
    const parents = (await list(disk)).map(({ name, parent }) => [name, names.get(parent ?? '')]);
    expect(parents).toEqual([
      ['base', undefined],
      ['try', 'base'],
      ['try again', 'try'],
      ['main', 'base'],
      ['aside', 'main'],
      ['end', 'main'],
    ]);
  });
});

describe('snapshot', () => {
  it.each([
    [['-r', 'one'], '-r and --as go together'],
    [['--as', 'one'], '-r and --as go together'],
    [['-r', 'one', '--as', 'two', '-c', 'three'], 'only one of -l, -c, -a, -d, -r'],
  ])('refuses %j', async (argv, words) => {
    const { status, stderr } = await cowlab('snapshot', ...argv, at('disk.img'));
    expect({ status, stderr }).toEqual({ status: 1, stderr: `cowlab: snapshot: ${words}\n` });
  });

  it('is refused where the format has none', async () => {
    await mustRun('create', '-q', at('disk.img'), '1M');
    expect(await cowlab('snapshot', '-c', 'a', at('disk.img'))).toEqual({
      status: 1,
      stdout: '',
      stderr: `cowlab: ${at('disk.img')}: raw has no snapshots\n`,
    });
    expect(await mustRun('snapshot', '-l', '--json', at('disk.img'))).toBe('[]\n');
  });
});

const judgedHere = withSnapshots.filter((name) => name === 'qcow2');
describe.skipIf(!hasJudge('qemu-img')).each(judgedHere)('snapshots of %s and qemu-img', (format) => {
  it('are the same, whoever took them', async () => {
    const disk = at('disk.img');
    await makeSample(disk, format);
    await mustRun('snapshot', '-c', 'ours', disk);
    await fill(disk, format, 0, MiB, 4);
    expect(judge('qemu-img', 'snapshot', '-c', 'theirs', disk).status).toBe(0);
    expect((await list(disk)).map(({ name }) => name)).toEqual(['ours', 'theirs']);
    expect(judge('qemu-img', 'snapshot', '-l', disk).stdout).toMatch(/ours[\s\S]*theirs/);
    for (const name of ['ours', 'theirs']) {
      await mustRun('convert', '-l', name, '-O', 'raw', disk, at(`ours-of-${name}`));
      const argv = ['convert', '-l', name, '-O', 'raw', disk, at(`theirs-of-${name}`)];
      expect(judge('qemu-img', ...argv).status).toBe(0);
      await mustRun('compare', '-q', at(`ours-of-${name}`), at(`theirs-of-${name}`));
    }
    expect(judge('qemu-img', 'check', disk).status).toBe(0);
  });
});
