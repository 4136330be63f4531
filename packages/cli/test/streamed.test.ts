// What the kernel is asked for while a new image is filled, seen by strace. The command is started from the build.

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { scratch } from './lab.ts';

const at = scratch();
const MIB = 1024 * 1024;
const command = fileURLToPath(new URL('../dist/cowlab.js', import.meta.url));
const hasStrace = spawnSync('strace', ['--version']).status === 0;

it.skipIf(!existsSync(command) || (!hasStrace && process.env.CI !== 'true'))(
  'what convert writes is sent to the device piece by piece, before the flush at the end',
  () => {
    writeFileSync(at('source.raw'), Buffer.alloc(32 * MIB, 1));
    const convert = ['convert', '-f', 'raw', '-O', 'raw', at('source.raw'), at('copy.raw')];
    const trace = ['-f', '-qq', '-e', 'trace=sync_file_range,fdatasync', '-o', at('trace')];
    execFileSync('strace', [...trace, process.execPath, command, ...convert]);
    const calls: string[] = readFileSync(at('trace'), 'utf8').match(/sync_file_range|fdatasync/g) ?? [];
    const sent = calls.filter((call) => call === 'sync_file_range').length;
    expect(sent).toBeGreaterThanOrEqual(4);
    expect(calls.slice(calls.indexOf('sync_file_range'))).toContain('fdatasync');
    expect(calls.at(-1)).toBe('fdatasync');
  },
);
