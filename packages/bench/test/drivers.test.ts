import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { allFormatNames, formatNames, report, runBench } from '../src/index.ts';
import { chooseSubjects, loadSubject } from '../src/formats.ts';
import { scratch, tiny } from './lab.ts';

const at = scratch();
const example = fileURLToPath(new URL('../../../docs/copies.js', import.meta.url));

describe('a driver from elsewhere', () => {
  it('appears in the results and in the report, without verdicts: the mail says nothing of it', async () => {
    const results = await runBench({ profile: tiny, formats: ['fvd'], drivers: [example], seed: 7 });
    expect(results.formats).toEqual(['fvd', 'copies']);
    const counts = (rows: readonly { format: string; snapshots: number }[]): number[] =>
      rows.filter(({ format }) => format === 'copies').map(({ snapshots }) => snapshots);
    expect(counts(results.reads)).toEqual([...tiny.snapshotCounts]);
    expect(results.omissions).toContainEqual(
      expect.objectContaining({ scenario: 'large image', format: 'copies' }),
    );
    expect(counts(results.histories)).toEqual([tiny.historyRounds]);

    expect(results.goals.every(({ format }) => format === 'fvd')).toBe(true);
    expect(report(results)).toContain('copies');
  }, 300_000);

  it.each([
    ['is not there', undefined, /Cannot find module/],
    ['exports nothing', '', /its default export is no driver: it has no name, capabilities/],
    ['has a member missing', "export default { name: 'x', probe() {} }", /it has no capabilities, options/],
    [
      'has a name that is taken',
      "export default { name: 'fvd', capabilities: {}, options: {}, openOptions: {}, probe() {}, create() {}, open() {} }",
      /there is a format fvd already/,
    ],
    ['does not parse', 'export default {', /./],
  ])('that %s is refused, by its name', async (name, text, problem) => {
    const file = at(`${name.replaceAll(' ', '-')}.mjs`);
    if (text !== undefined) await writeFile(file, text);
    const failure = loadSubject(file);
    await expect(failure).rejects.toMatchObject({ code: 'ERR_INVALID_OPTION', data: { field: 'driver' } });
    await expect(failure).rejects.toThrow(problem);
  });

  it('is the one that the page about drivers is about', async () => {
    const page = await readFile(new URL('../../../docs/write-a-driver.md', import.meta.url), 'utf8');
    const source = await readFile(example, 'utf8');
    expect(page).toContain('--driver docs/copies.js');
    const lines = Number(/in some (\d+) lines/.exec(page)?.[1]);
    expect(Math.abs(source.split('\n').length - lines)).toBeLessThanOrEqual(10);
    for (const member of ['capabilities', 'probe', 'create', 'open']) expect(page).toContain(`\`${member}`);
  });
});

describe('variants', () => {
  it('are measured when they are asked for', () => {
    expect(chooseSubjects().map(({ name }) => name)).toEqual(formatNames);
    expect(chooseSubjects(allFormatNames).map(({ name }) => name)).toEqual(allFormatNames);
  });

  it('make images with their options, and open them so', async () => {
    const names = allFormatNames.filter((name) => !formatNames.includes(name));
    const { ablation, service } = tiny.axes;
    const profile = { ...tiny, large: [], axes: { ablation, service } };
    const results = await runBench({ profile, formats: names, seed: 7 });
    expect(results.formats).toEqual(names);
    const flushed = (format: string): number =>
      results.allocations.find((row) => row.format === format && row.variant === 'as is')!.calls.purposes
        .refcount.writes;
    expect(flushed('qcow2-lazy')).toBeLessThan(flushed('qcow2-small-caches'));
    const copied = results.overwrites.find(
      ({ format, pass, snapshots }) => format === 'fvd-64k' && pass === 'first' && snapshots === 1,
    )!;
    expect(copied.calls.purposes.data.writtenBytes / copied.operations).toBeGreaterThan(32_768);
  }, 600_000);
});
