import { existsSync, readdirSync } from 'node:fs';
import { afterAll, expect, it } from 'vitest';
import { measureDataPath } from '../src/data-path.ts';
import { chooseSubjects, yardstick } from '../src/formats.ts';
import { Lab } from '../src/lab.ts';

const lab = new Lab();
afterAll(() => {
  lab.close();
  expect(existsSync(lab.root)).toBe(false);
});

it.each([yardstick, ...chooseSubjects()].map((subject) => [subject.name, subject] as const))(
  'the data path of %s is measured against the same bytes of the same file',
  async (name, subject) => {
    const sizes = { imageBytes: 2 * 2 ** 20, requestBytes: 4096, batch: 8, rounds: 8 };
    const { format, reads, overwrites } = await measureDataPath(lab, subject, sizes);
    expect(format).toBe(name);
    for (const { promises, every, bareMicros } of [reads, overwrites]) {
      for (const value of [promises, every, bareMicros]) {
        expect(value).toBeGreaterThan(0);
        expect(value).toBeLessThan(Number.POSITIVE_INFINITY);
      }
    }
    expect(readdirSync(lab.root)).toEqual([]);
  },
);
