import { expect, it } from 'vitest';
import { ProgressLine } from '../src/progress.ts';

function line(
  isTTY: boolean,
  columns = 80,
): { progress: ProgressLine; said: string[]; pass: (ms: number) => void } {
  const said: string[] = [];
  let now = 0;
  const stream = { isTTY, columns, write: (text: string) => said.push(text) };
  return { progress: new ProgressLine(stream, () => now), said, pass: (ms) => void (now += ms) };
}

it('redraws one line on a terminal, not more often than an eye can follow, and takes it away', () => {
  const { progress, said, pass } = line(true);
  for (let step = 0; step < 100; step++) {
    progress.update({ step: 'reads', done: step / 100 });
    pass(10);
  }
  progress.end();
  expect(said.length).toBeLessThan(15);
  expect(said.join('')).not.toContain('\n');
  expect(said.at(-1)).toBe('\r\u001b[K');
});

it('writes a plain line for each step elsewhere, and one now and then within it', () => {
  const { progress, said, pass } = line(false);
  for (const step of ['reads', 'overwrites']) {
    for (let tenth = 0; tenth < 10; tenth++) {
      progress.update({ step, done: tenth / 10 });
      pass(2000);
    }
  }
  progress.end();
  expect(said).toEqual([
    'bench:   0 % 0 s  reads\n',
    'bench:  50 % 10 s, about 10 s left,  reads\n',
    'bench:   0 % 20 s  overwrites\n',
    'bench:  50 % 30 s, about 30 s left,  overwrites\n',
  ]);
});

it('stays within the terminal', () => {
  const { progress, said } = line(true, 20);
  progress.update({ step: 'a step with a very long name', done: 0 });
  expect(said.join('').replace('\r\u001b[K', '')).toHaveLength(19);
});
