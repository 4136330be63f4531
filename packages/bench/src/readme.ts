import fs from 'node:fs';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { fvdFigures } from './figures.ts';
import { parseResults } from './schema.ts';

/*
 * A program: puts the figures of a run into the README of FVD. Argument: the run's results.json. What stands between
 * the two marks is replaced; everything else stays.
 */

const README: string = fileURLToPath(new URL('../../fvd/README.md', import.meta.url));
const BEGIN = '<!-- figures: npm run bench:figures writes what follows -->';
const END = '<!-- end of figures -->';

const [file = ''] = process.argv.slice(2);
const results = parseResults(JSON.parse(fs.readFileSync(file, 'utf8')));
const text = fs.readFileSync(README, 'utf8');
const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
if (begin < 0 || end < begin) throw new Error(`${README}: no place for figures: ${BEGIN} … ${END}`);
fs.writeFileSync(
  README,
  `${text.slice(0, begin + BEGIN.length)}\n\n${fvdFigures(results)}\n\n${text.slice(end)}`,
);
process.stdout.write(`${README}: figures of ${results.environment.date}\n`);
