import { readFileSync, writeFileSync } from 'node:fs';
import { toJsonSchema } from '@valibot/to-json-schema';
import { expect, it } from 'vitest';
import { RESULTS_VERSION, resultsSchema } from '../src/index.ts';

/*
 * The published schema is written from the one that checks results. `COWLAB_WRITE_TABLES=1` writes it; `isoTimestamp` and
 * finiteness have no word in JSON Schema.
 */

const file = new URL('../results.schema.json', import.meta.url);

const published: unknown = {
  $id: `cowlab-bench-results-${RESULTS_VERSION}`,
  ...toJsonSchema(resultsSchema, { errorMode: 'ignore' }),
};

it('results.schema.json is the schema that results are checked by', () => {
  if (process.env['COWLAB_WRITE_TABLES'] !== undefined)
    writeFileSync(file, JSON.stringify(published, null, 2));
  expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual(published);
});
