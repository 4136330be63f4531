import { describe, expect, it } from 'vitest';
import { chartsOf } from '../src/publish/charts.ts';
import { htmlReport } from '../src/publish/html.ts';
import { markdownReport } from '../src/publish/markdown.ts';
import { escapeText } from '../src/publish/svg.ts';
import { csvOf, tableOf } from '../src/publish/tables.ts';
import type { Results } from '../src/schema.ts';
import { publishedResults } from './samples.ts';

const results: Results = publishedResults();
const charts = chartsOf(results);
const page = htmlReport(results);

/** What stands in attributes of that name. */
function attributes(html: string, name: string): string[] {
  return [...html.matchAll(new RegExp(` ${name}="([^"]*)"`, 'g'))].map(([, value]) => value!);
}

describe('the charts', () => {
  it('show what the goals ask about', () => {
    expect(charts.map(({ id }) => id)).toEqual([
      'reads',
      'first-overwrites',
      'steady-overwrites',
      'metadata-in-memory',
      'process-memory',
      'create-by-snapshots',
      'create-by-size',
      'delete-by-snapshots',
      'delete-by-size',
      'calls-per-write',
      'latencies',
      'read-latencies',
      'write-latencies',
      'bytes-per-snapshot',
      'devices-first-overwrite',
      'devices-create',
      'devices-delete',
    ]);
  });

  it.each(charts)('$id has its numbers in a table and in the csv', (chart) => {
    const { head, rows } = tableOf(chart);
    expect(rows.length).toBeGreaterThan(0);
    for (const row of rows) expect(row).toHaveLength(head.length);
    const cells = rows.flat();
    const lines = csvOf([chart]).trimEnd().split('\n').slice(1);
    const values =
      chart.kind === 'bars'
        ? chart.bars.flatMap(({ parts }) => parts.map(({ value }) => value))
        : chart.series.flatMap(({ points }) => points.map(({ y }) => y));
    for (const value of values) expect(cells).toContain(chart.y.show(value));
    expect(lines).toHaveLength(values.length);
    for (const value of values) expect(lines.some((each) => each.includes(String(value)))).toBe(true);
  });

  it('are left out where nothing was measured', () => {
    const empty = {
      ...results,
      axes: [],
      devices: [],
      histories: [],
      idleSnapshots: [],
      overwrites: [],
      reads: [],
    };
    expect(chartsOf(empty).map(({ id }) => id)).toEqual([
      'metadata-in-memory',
      'process-memory',
      'create-by-snapshots',
      'create-by-size',
      'delete-by-snapshots',
      'delete-by-size',
    ]);
    expect(htmlReport(empty).includes('NaN')).toBe(false);
  });
});

describe('the page', () => {
  it('needs nothing from elsewhere', () => {
    const links = [...attributes(page, 'href'), ...attributes(page, 'src')];
    expect(links.length).toBeGreaterThan(0);
    for (const link of links) expect(link).toMatch(/^#/);
    expect(/@import|url\(/.test(page)).toBe(false);
  });

  it('leads from every link to a place in it, and has no place twice', () => {
    const places = attributes(page, 'id');
    expect(new Set(places).size).toBe(places.length);
    for (const link of attributes(page, 'href')) expect(places).toContain(link.slice(1));
  });

  it('has every verdict, with what it rests on', () => {
    const places = attributes(page, 'id');
    const facts = [...page.matchAll(/<li>([^<]*)<\/li>/g)].map(([, text]) => text);
    for (const { goal, format, measured } of results.goals) {
      expect(places).toContain(`${goal}-${format}`);
      for (const fact of measured.split('; ')) expect(facts).toContain(escapeText(fact));
    }
  });

  it('answers what users ask, in words for each format, and says what each part of FVD is worth', () => {
    for (const words of ['What users ask', '100 %', 'cannot', 'chunks of 1 MiB', 'pattern: Zipf'])
      expect(page).toContain(words);
  });

  it('has a link to each of its sections, and one to what each claim that did not hold rests on', () => {
    const nav = /<nav.*?<\/nav>/.exec(page)![0];
    const headings = [...page.matchAll(/<h2 id="([^"]*)"/g)].map(([, id]) => `#${id}`);
    expect(attributes(nav, 'href')).toEqual(headings);
    const list = /<section><h2 id="contradictions".*?<\/section>/.exec(page)![0];
    const contradicted = results.goals.filter(
      ({ agreement }) => agreement === 'better' || agreement === 'worse',
    );
    expect(attributes(list, 'href').toSorted()).toEqual(
      contradicted.map(({ goal, format }) => `#${goal}-${format}`).toSorted(),
    );
  });

  it('draws numbers only', () => {
    expect(/NaN|Infinity|undefined/.test(page)).toBe(false);
  });

  it('takes names for text', () => {
    const named = structuredClone(results);
    named.formats = ['<script>alert(1)</script>'];
    for (const row of named.reads) row.format = named.formats[0]!;
    expect(htmlReport(named).includes('<script>alert')).toBe(false);
  });
});

describe('the report in markdown', () => {
  it('has the matrix, and what did not hold', () => {
    const text = markdownReport(results);
    for (const { goal, format, verdict, claim, agreement } of results.goals) {
      const line = text.split('\n').find((each) => each.startsWith(`| ${goal} `))!;
      expect(line).toContain(agreement === 'agrees' ? verdict : `${verdict} (mail: ${claim})`);
      if (agreement !== 'agrees') expect(text).toContain(`- ${goal}, ${format}: claimed ${claim}`);
    }
  });

  it('has tables whose lines have as many cells as their heads', () => {
    const lines = markdownReport(results).split('\n');
    const cells = (line: string): number => line.replaceAll('\\|', '').split('|').length;
    lines.forEach((line, index) => {
      if (line.startsWith('|') && lines[index - 1]?.startsWith('|'))
        expect(cells(line)).toBe(cells(lines[index - 1]!));
    });
  });
});
