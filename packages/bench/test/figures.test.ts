import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { judgeBars } from '../src/bars.ts';
import { fvdFigures } from '../src/figures.ts';
import { type Profile, profiles } from '../src/profiles.ts';
import type { Results } from '../src/schema.ts';
import { idealResults } from './samples.ts';

/* The README of FVD repeats what a run has measured. Numbers are the run's; rows and units are what is printed here. */

const readme = readFileSync(new URL('../../fvd/README.md', import.meta.url), 'utf8');
const figures = /<!-- figures: .*? -->\n\n(.*?)\n\n<!-- end of figures -->/s.exec(readme)?.[1] ?? '';

/** Results with the rows that a run of the profile has. */
function resultsOf(profile: Profile): Results {
  const results = idealResults();
  const [model] = results.largeImages;
  const [create] = results.snapshotOperations;
  const first = results.overwrites.find(({ format, pass }) => format === 'fvd' && pass === 'first')!;
  results.profile = { ...profile };
  results.overwrites = profile.snapshotCounts.map((snapshots) => ({ ...first, snapshots }));
  const images = profile.large.flatMap(({ imageBytes, snapshots: most }) =>
    [0, 1, most].map((snapshots) => ({ imageBytes, snapshots })),
  );
  results.largeImages = images.map((image) => ({ ...model!, ...image, rssBytes: [] }));
  for (const row of results.largeImages) if (row.snapshots !== 1) row.rssBytes = [70 * 2 ** 20];
  results.snapshotOperations = images.flatMap((image) =>
    (image.snapshots === 0 ? (['create'] as const) : (['create', 'delete', 'apply'] as const)).map(
      (operation) => ({ ...create!, ...image, operation }),
    ),
  );
  return { ...results, bars: judgeBars(results) };
}

/** Rows of tables and the lines above them, without the numbers, and without what a run may decide otherwise. */
function shape(markdown: string): string[] {
  return markdown
    .split('\n')
    .filter((line) => line.startsWith('|') || line.endsWith(':'))
    .map((line) =>
      line
        .replaceAll(/−?\d[\d,.]*\d|−?\d/g, '#')
        .replaceAll(/\| (?:yes|no) \|/g, '| ? |')
        .replaceAll(/ \((?:qcow#|vmdk)\)/g, ' (other)'),
    );
}

it('the README of FVD has the tables that a run prints, row by row, unit by unit', () => {
  const name = /^Profile `(\w+)`/.exec(figures)?.[1] ?? 'none';
  const profile = Object.values(profiles).find((each) => each.name === name);
  expect(profile, `the profile that the README names: ${name}`).toBeDefined();
  expect(shape(figures)).toEqual(shape(fvdFigures(resultsOf(profile!))));
});

describe.each(Object.values(profiles))('figures of the profile $name', (profile) => {
  const lines = fvdFigures(resultsOf(profile)).split('\n');

  it('have as many cells in every row as the head of its table', () => {
    const cells = lines.map((line) => (line.startsWith('|') ? line.split('|').length : 0));
    for (const [at, count] of cells.entries()) {
      if (count > 0 && cells[at - 1]! > 0) expect(count, lines[at]).toBe(cells[at - 1]);
    }
  });

  it('have a row for every large image', () => {
    for (const { imageBytes } of profile.large) {
      const tib = imageBytes / 2 ** 40;
      expect(lines.filter((line) => line.startsWith(`| ${tib} TiB | 0 |`))).toHaveLength(2);
    }
  });

  it('have no number that is none', () => {
    expect(lines.filter((line) => /NaN|undefined|Infinity/.test(line))).toEqual([]);
  });
});
