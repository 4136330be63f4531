import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import type { Report } from '../src/messages.ts';
import { runShare } from '../src/shares.ts';

it('a case that never ends is ended, and told with what shows it again', async () => {
  const worker = fileURLToPath(new URL('fixtures/endless.js', import.meta.url));
  const reports: Report[] = [];
  const share = { driver: 'fvd', part: 'damage', seed: 7, shares: 1, seconds: 600 };
  await runShare(share, (_, report) => reports.push(report), worker, 1);
  expect(reports).toEqual([
    {
      kind: 'violation',
      violation: { workload: 'closed', seed: 7, state: '3', message: 'does not come to an end' },
    },
  ]);
});
