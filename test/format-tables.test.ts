// The tables of fields in each FORMAT.md are printed from the driver's layout. A failing test shows the table that has to
// be there; COWLAB_WRITE_TABLES=1 puts it there.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type FieldTable, fieldTableText } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import * as fvd from '../packages/fvd/src/layout-fields.ts';
import * as qcow2 from '../packages/qcow2-like/src/layout-fields.ts';
import * as vmdk from '../packages/vmdk-chain/src/layout-fields.ts';
import { readText, root } from './repository.ts';

const formats: readonly [string, string, FieldTable][] = [
  ['fvd', 'superblock', fvd.superblockFields],
  ['fvd', 'root', fvd.rootFields],
  ['fvd', 'page', fvd.pageFields],
  ['fvd', 'delta', fvd.deltaFields],
  ['fvd', 'delta run', fvd.deltaRunFields],
  ['fvd', 'journal', fvd.journalFields],
  ['fvd', 'run', fvd.runFields],
  ['fvd', 'catalog', fvd.catalogFields],
  ['fvd', 'entry', fvd.entryFields],
  ['qcow2-like', 'header', qcow2.headerFields],
  ['qcow2-like', 'snapshot', qcow2.snapshotFields],
  ['qcow2-like', 'bitmap', qcow2.bitmapFields],
  ['vmdk-chain', 'header', vmdk.headerFields],
  ['vmdk-chain', 'marker', vmdk.markerFields],
];

const isWriting = process.env['COWLAB_WRITE_TABLES'] !== undefined;

describe('FORMAT.md', () => {
  it.each(formats)('of %s has the fields of the %s as the layout has them', (name, structure, fields) => {
    const path = `packages/${name}/FORMAT.md`;
    const [before, after] = readText(path).split(`<!-- fields: ${structure} -->\n\n`);
    if (before === undefined || after === undefined)
      throw new Error(`${path} has no mark for the fields of ${structure}`);
    const table = fieldTableText(fields);
    const rest = after.replace(/^(\|.*\n)+/, '');
    if (isWriting)
      writeFileSync(join(root, path), `${before}<!-- fields: ${structure} -->\n\n${table}\n${rest}`);
    else expect(after.slice(0, after.length - rest.length).trimEnd()).toBe(table);
  });
});

describe.each(formats)('in %s, the fields of the %s', (_name, _structure, fields) => {
  it('follow each other without overlap', () => {
    let end = 0;
    for (const [name, { at, bytes }] of Object.entries(fields)) {
      expect(at, name).toBeGreaterThanOrEqual(end);
      end = at + bytes;
    }
  });
});
