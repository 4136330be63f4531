import fs from 'node:fs';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { fvdFigures } from './figures.ts';
import { putFigures } from './readme-block.ts';
import { parseResults } from './schema.ts';

/* A program: puts the figures of a run into the README of FVD. Argument: the run's results.json. */

const readme: string = fileURLToPath(new URL('../../fvd/README.md', import.meta.url));

const [file = ''] = process.argv.slice(2);
const results = parseResults(JSON.parse(fs.readFileSync(file, 'utf8')));
putFigures({ readme, command: 'npm run bench:figures' }, fvdFigures(results));
process.stdout.write(`${readme}: figures of ${results.environment.date}\n`);
