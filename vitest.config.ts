import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const root = fileURLToPath(new URL('.', import.meta.url));

// .ci/run reads this report to count what passed; it lies where `npm ci` sweeps away an old one.
const report: [string, { outputFile: string }] = [
  'json',
  { outputFile: `${root}node_modules/.cache/vitest/report.json` },
];

export default defineConfig({
  resolve: {
    // Tests see sources: no build needed, and one copy of each module even where packages meet.
    alias: [{ find: /^@cowlab\/([^/]+)$/, replacement: `${root}packages/$1/src/index.ts` }],
  },
  test: {
    include: ['packages/*/test/**/*.test.ts', 'test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    reporters: process.env.CI ? ['default', report] : ['default'],
  },
});
