import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseResults, runBench } from '../src/index.ts';
import { scratch, tiny } from './lab.ts';

const at = scratch();

/** A run that is interrupted when it comes to a step; without one it goes on to the end. The steps that it began. */
async function run(out: string, interruptAt?: string, seed = 7): Promise<string[]> {
  const steps: string[] = [];
  try {
    await runBench({
      profile: tiny,
      formats: ['fvd'],
      out,
      seed,
      onProgress: ({ step }) => {
        if (steps.at(-1) !== step) steps.push(step);
        if (step === interruptAt) throw new Error('interrupted');
      },
    });
  } catch (error) {
    expect((error as Error).message).toBe('interrupted');
  }
  return steps;
}

describe('a run that was interrupted', () => {
  it('goes on where it was, leaves whole results, and nothing of before', async () => {
    const out = at('on');
    expect(await run(out, 'a long history')).toContain('making fvd images');
    const steps = await run(out);
    expect(steps.some((step) => step.startsWith('making'))).toBe(false);
    expect(steps).toContain('a long history');
    expect(readdirSync(out)).toEqual(['charts.csv', 'report.html', 'report.md', 'results.json']);
    const results = parseResults(JSON.parse(readFileSync(join(out, 'results.json'), 'utf8')));
    expect(results.reads.length).toBeGreaterThan(0);
    expect(results.histories).toHaveLength(1);
  }, 60_000);

  it('begins anew when something else is asked for', async () => {
    const out = at('anew');
    await run(out, 'a long history');
    expect(await run(out, 'simulated devices', 8)).toContain('making fvd images');
  }, 60_000);

  it.each(['', '{', '{"key":7}', 'null'])(
    'begins anew where %j is what it kept',
    async (text) => {
      const out = at(`damaged-${text.length}`);
      await run(out, 'empty images');
      const file = join(out, 'unfinished.json');
      expect(existsSync(file)).toBe(true);
      writeFileSync(file, text);
      expect(await run(out, 'process memory')).toContain('making fvd images');
    },
    60_000,
  );
});
