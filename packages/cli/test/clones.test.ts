import { describe, expect, it } from 'vitest';
import { fill, formatsWith, MiB } from './images.ts';
import { contradictions } from './json-schema.ts';
import { cowlab, mustRun, scratch } from './lab.ts';

const at = scratch();
const bases = formatsWith(({ snapshots }) => snapshots !== 'none');
const clones = formatsWith(({ backingSnapshot }) => backingSnapshot);
const others = formatsWith(({ backing, backingSnapshot }) => backing && !backingSnapshot);

/** Two snapshots and a disk, all different. */
async function makeBase(format: string): Promise<void> {
  await mustRun('create', '-q', '-f', format, at('base'), '4M');
  for (const [step, name] of ['one', 'two'].entries()) {
    await fill(at('base'), format, step * 1000, 2 * MiB, step + 1);
    await mustRun('snapshot', '-c', name, at('base'));
  }
  await fill(at('base'), format, 0, 4 * MiB, 9);
}

async function makeClone(format: string, ...options: string[]): Promise<void> {
  await mustRun(
    'create',
    '-q',
    '-f',
    format,
    '-b',
    'base',
    '--backing-snapshot',
    'one',
    ...options,
    at('clone'),
  );
}

describe.each(clones.flatMap((clone) => bases.map((base) => [clone, base] as const)))(
  'a clone of format %s of a snapshot of %s',
  (format, base) => {
    it('reads as the snapshot, before and after the other image changes', async () => {
      await makeBase(base);
      await mustRun('convert', '-l', 'one', '-O', 'raw', at('base'), at('expected'));
      await makeClone(format);
      await mustRun('compare', at('clone'), at('expected'));
      await fill(at('base'), base, MiB, MiB, 3);
      await mustRun('snapshot', '-c', 'three', at('base'));
      await mustRun('snapshot', '-d', 'two', at('base'));
      await fill(at('base'), base, 0, MiB, 4);
      await mustRun('compare', at('clone'), at('expected'));
      await mustRun('check', at('clone'));
    });

    it('is shown by info, and by its JSON as the schema says', async () => {
      await makeBase(base);
      await makeClone(format, '-F', base);
      const listed = JSON.parse(await mustRun('snapshot', '-l', '--json', at('base'))) as { id: string }[];
      const info: unknown = JSON.parse(await mustRun('info', '--json', at('clone')));
      expect(info).toMatchObject({ 'backing-filename': 'base', 'backing-snapshot': listed[0]!.id });
      expect(contradictions(info, 'info')).toEqual([]);
      expect(await mustRun('info', at('clone'))).toContain(`\nbacking snapshot: ${listed[0]!.id}\n`);
    });

    it('is refused in one line once its snapshot is deleted', async () => {
      await makeBase(base);
      await makeClone(format);
      await mustRun('snapshot', '-d', 'one', at('base'));
      const { status, stderr } = await cowlab('info', at('clone'));
      expect(status).toBe(1);
      expect(stderr).toMatch(/^cowlab: [^\n]*base\.snapshot: base has no snapshot with the id [^\n]*\n$/i);
    });
  },
);

describe.each(others)('a clone of format %s', (format) => {
  it('is refused in one line', async () => {
    await makeBase('fvd');
    const clone = ['-f', format, '-b', 'base', '--backing-snapshot', 'one', at('clone')];
    const { status, stderr } = await cowlab('create', ...clone);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]*backing snapshot: [^\n]*\n$/);
  });
});
