import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { profiles } from '../src/profiles.ts';
import { claims, goalTitles, scales } from '../src/rules.ts';
import type { GoalName } from '../src/schema.ts';
import { size } from '../src/wording.ts';
import { idealResults } from './samples.ts';

/* The README repeats what the code says; here they are held together. */

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');

/** The cells of every table row that begins with the given cell. */
function rows(first: string): string[][] {
  return readme
    .split('\n')
    .map((line) => line.split('|').map((cell) => cell.trim()))
    .filter((cells) => cells[1] === first)
    .map((cells) => cells.slice(2, -1));
}

const written = {
  share: (value: number) => `${value * 100} %`,
  ratio: (value: number) => `${value}×`,
  bytes: size,
  seconds: (value: number) => `${value} s`,
};

it.each([
  ['G1', scales.bookkeeping, written.share],
  ['G2, G3', scales.speed, written.ratio],
  ['G4', scales.memory, written.ratio],
  ['G4', scales.growth, written.bytes],
  ['G5, G6', scales.seconds, written.seconds],
])('the thresholds of %s are those of the rules', (goal, scale, write) => {
  expect(rows(goal).map((cells) => cells.slice(0, 4))).toContainEqual(scale.map(write));
});

it.each(Object.entries(claims))('the claims for %s are those of the rules', (format, claimed) => {
  const goals = Object.keys(goalTitles) as GoalName[];
  expect(rows(format)).toContainEqual(goals.map((goal) => claimed[goal] ?? ''));
});

it.each(Object.values(profiles))('the profile $name is as described', (profile) => {
  const [image, counts, large, room] = rows(`\`${profile.name}\``)[0] ?? [];
  expect({ image, counts, large }).toEqual({
    image: size(profile.imageBytes),
    counts: profile.snapshotCounts.join(', '),
    large: profile.large.map(({ imageBytes }) => size(imageBytes)).join(', '),
  });
  const images = 1 + (3 + profile.variants.length) * profile.snapshotCounts.length;
  expect(room).toBe(size(Math.ceil((profile.imageBytes * images * 1.5) / 2 ** 30) * 2 ** 30));
});

describe('results.json', () => {
  it.each(Object.keys(idealResults()))('has a line for %s', (member) => {
    expect(readme).toContain(`\`${member}\``);
  });
});
