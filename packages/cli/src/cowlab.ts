#!/usr/bin/env node
import { main } from './main.ts';

// `cowlab map … | head`: nobody reads on, which is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(0);
});

// Nor is it that nobody reads what a server says beside its answers.
process.stderr.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
});

// Not process.exit(): what was written to a pipe has to drain first.
process.exitCode = await main(process.argv.slice(2), process);
