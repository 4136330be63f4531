// A driver's README says what it can, and which test proves it. Here: that those tests are there, and that nothing is
// claimed without one.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readText, root } from './repository.ts';

interface Feature {
  readonly name: string;
  readonly here: string;
  readonly proof: string;
}

function featuresOf(name: string): Feature[] {
  const [, after = ''] = readText(`packages/${name}/README.md`).split('\n## Features\n');
  const [table = ''] = after.split('\n## ');
  const [, , ...rows] = table.split('\n').filter((line) => line.startsWith('|'));
  return rows.map((line) => {
    const [, feature = '', here = '', proof = ''] = line.split('|').map((cell) => cell.trim());
    return { name: feature, here, proof };
  });
}

describe.each(['qcow2-like', 'vmdk-chain'])('the features of %s', (name) => {
  const features = featuresOf(name);

  it('are many', () => {
    expect(features.length).toBeGreaterThan(15);
  });

  it.each(features)('$name: has a test that is there, or is not claimed', ({ here, proof }) => {
    const tests = [...proof.matchAll(/`([\w-]+\.test\.ts)`/g)].map(([, file]) => file!);
    if (here === 'no') expect(proof).toBe('');
    else expect(tests.length).toBeGreaterThan(0);
    for (const file of tests) expect(existsSync(join(root, 'packages', name, 'test', file))).toBe(true);
  });
});
