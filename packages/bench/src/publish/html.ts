import { besideSections, type Section } from '../axes/wording.ts';
import { barCells } from '../figures.ts';
import { noisyRows } from '../noise.ts';
import { decisive, contradicts, goalTitles, isQemu, reasons, reservation } from '../rules.ts';
import type { GoalName, GoalRow, Results } from '../schema.ts';
import { percent, size } from '../wording.ts';
import { trendCells, trendGroups, trendHead, trendNote, trendSummary } from '../targets/wording.ts';
import { type Chart, chartsOf } from './charts.ts';
import { script, style } from './style.ts';
import { escapeText, legendOf, svgOf } from './svg.ts';
import { type Table, tableOf } from './tables.ts';

/*
 * The report as one page that needs nothing but itself: first the matrix of verdicts, each with a link to what it rests
 * on; then what of the mail did not hold; then goal by goal the evidence; then the charts, each with its table.
 */

/** Where the evidence for a cell of the matrix is. */
function anchor({ goal, format }: Pick<GoalRow, 'goal' | 'format'>): string {
  return `${goal}-${format.replace(/[^\w-]/g, '-')}`;
}

const goalCharts: Readonly<Record<GoalName, readonly string[]>> = {
  G1: ['calls-per-write'],
  G2: ['reads', 'first-overwrites', 'steady-overwrites'],
  G3: ['reads', 'first-overwrites', 'steady-overwrites', 'latencies'],
  G4: ['metadata-in-memory', 'process-memory'],
  G5: ['create-by-snapshots', 'create-by-size'],
  G6: ['delete-by-snapshots', 'delete-by-size'],
};

export function htmlReport(results: Results): string {
  const charts = chartsOf(results);
  const body = [
    matrix(results),
    contradictions(results),
    ...(Object.keys(goalTitles) as GoalName[]).map((goal) => goalSection(goal, results, charts)),
    chartSection(charts),
    trendSection(results),
    ...besideSections(results).map(tableSection),
    barSection(results),
    noiseSection(results),
    omissionSection(results),
  ];
  return [
    '<!doctype html>',
    '<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    `<title>${escapeText(titleOf(results))}</title><style>${style}</style></head><body>`,
    heading(results),
    contentsOf(body),
    ...body,
    `<div id="tip" role="status" hidden></div><script>${script}</script></body></html>`,
    '',
  ].join('\n');
}

/** A link to each section that there is, by its heading. */
function contentsOf(sections: readonly string[]): string {
  const links = sections.flatMap((section) => {
    const [, id, title] = /<h2 id="([^"]*)">(.*?)<\/h2>/.exec(section) ?? [];
    return id === undefined ? [] : [`<a href="#${id}">${title?.replace(/^(G\d): .*/, '$1')}</a>`];
  });
  return `<nav aria-label="sections">${links.join(' ')}</nav>`;
}

function titleOf({ formats, qemu }: Results): string {
  const beside = qemu === undefined ? '' : ', and QEMU’s own';
  return `Snapshot strategies: ${formats.filter((format) => !isQemu(format)).join(', ')}${beside}`;
}

function heading(results: Results): string {
  const { environment: at, profile, seed, durationSeconds } = results;
  const beside = results.qemu === undefined ? '' : ` QEMU ${results.qemu.version} beside.`;
  const run =
    `Profile ${String(profile.name)}, images of ${size(Number(profile.imageBytes))}, seed ${seed}, ` +
    `${Math.round(durationSeconds)} s on ${at.date.slice(0, 10)}. Node ${at.node}, ${at.platform} ${at.kernel}, ` +
    `${at.cores} × ${at.cpu}, ${size(at.memoryBytes)} of memory, ${at.fileSystem}.${beside}`;
  return (
    `<header><h1>${escapeText(titleOf(results))}</h1><p>In March 2011 C. Tang named six goals for snapshots inside a virtual disk, ` +
    `and said how three designs meet them. This run measured it. N is the number of snapshots that exist.</p>` +
    `<p class="about">${escapeText(run)}</p></header>`
  );
}

function matrix({ goals, formats }: Results): string {
  const rows = (Object.keys(goalTitles) as GoalName[]).map((goal) => {
    const cells = formats.map((format) => {
      const row = goals.find((each) => each.goal === goal && each.format === format);
      if (row === undefined) return '<td>–</td>';
      return (
        `<td class="${row.verdict.replace(' ', '-')}"><a href="#${anchor(row)}"><strong>${row.verdict}</strong>` +
        `<small>${saidOf(row)}</small></a></td>`
      );
    });
    return `<tr><th scope="row">${goal} ${escapeText(goalTitles[goal])}</th>${cells.join('')}</tr>`;
  });
  const head = formats.map((format) => `<th scope="col">${escapeText(format)}</th>`).join('');
  return (
    `<section><h2 id="matrix">Verdicts</h2><div class="wide"><table class="matrix">` +
    `<thead><tr><th scope="col">goal</th>${head}</tr></thead><tbody>${rows.join('')}</tbody></table></div></section>`
  );
}

function saidOf(row: GoalRow): string {
  const { agreement, claim } = row;
  const said =
    agreement === undefined
      ? `the mail ${claim === undefined ? 'is silent' : `says “${claim}”`}`
      : agreement === 'agrees'
        ? 'as the mail says'
        : `${agreement} than the mail’s “${claim}”`;
  return [reservation(row), said].filter((part) => part !== '').join('; ');
}

function contradictions({ goals }: Results): string {
  const rows = goals.filter(contradicts);
  if (rows.length === 0) {
    return '<section><h2 id="contradictions">Claims of the mail that did not hold</h2><p>None.</p></section>';
  }
  const list = (agreement: GoalRow['agreement'], title: string): string => {
    const items = rows
      .filter((row) => row.agreement === agreement)
      .map(
        (row) =>
          `<li><a href="#${anchor(row)}">${row.goal}, ${escapeText(row.format)}</a>: claimed ${row.claim}, measured ` +
          `${row.verdict}: ${escapeText(decisive(row))}. ${escapeText(reasonFor(row))}</li>`,
      );
    return items.length === 0 ? '' : `<h3>${title}</h3><ul>${items.join('')}</ul>`;
  };
  return (
    `<section><h2 id="contradictions">Claims of the mail that did not hold</h2>` +
    `${list('worse', 'Worse than claimed')}${list('better', 'Better than claimed')}</section>`
  );
}

function reasonFor({ goal, format }: GoalRow): string {
  return reasons[format]?.[goal] ?? '';
}

function goalSection(goal: GoalName, { goals }: Results, charts: readonly Chart[]): string {
  const rows = goals.filter((row) => row.goal === goal);
  if (rows.length === 0) return '';
  const links = charts
    .filter(({ id }) => goalCharts[goal].includes(id))
    .map(({ id, title }) => `<a href="#${id}">${escapeText(title)}</a>`);
  const evidence = rows.map((row) => {
    const facts = [reservation(row), ...row.measured.split('; ')]
      .filter((fact) => fact !== '')
      .map((fact) => `<li>${escapeText(fact)}</li>`);
    return (
      `<div class="evidence" id="${anchor(row)}"><h3>${goal}, ${escapeText(row.format)}: ` +
      `<span class="${row.verdict.replace(' ', '-')}">${row.verdict}</span></h3>` +
      `<p>${escapeText(reasonFor(row))} ${row.claim === undefined ? 'The mail is silent.' : `The mail says ${row.claim}.`}</p><ul>${facts.join('')}</ul></div>`
    );
  });
  const also = links.length === 0 ? '' : `<p class="about">Charts: ${links.join(', ')}.</p>`;
  return `<section><h2 id="${goal}">${goal}: ${escapeText(goalTitles[goal])}</h2><div class="goal">${evidence.join('')}</div>${also}</section>`;
}

function trendSection({ qemu }: Results): string {
  if (qemu === undefined) return '';
  const tables = trendGroups(qemu.trends).map(({ title, rows }) => {
    const table = { head: [title, ...trendHead.slice(1)], rows: rows.map(trendCells) };
    return `<div class="wide trend">${htmlTable(table)}</div>`;
  });
  return (
    `<section><h2 id="trends">Our drivers against the original</h2><p>${escapeText(trendSummary(qemu.trends))}. ${escapeText(trendNote)}</p>` +
    `${tables.join('')}</section>`
  );
}

function chartSection(charts: readonly Chart[]): string {
  if (charts.length === 0) return '';
  const figures = charts.map(
    (chart) =>
      `<figure id="${chart.id}"><h3>${escapeText(chart.title)}</h3>${legendOf(chart)}${svgOf(chart)}` +
      `<figcaption class="caption">${escapeText(chart.caption)}</figcaption>` +
      `<details><summary>The numbers</summary><div class="wide">${htmlTable(tableOf(chart))}</div></details></figure>`,
  );
  return `<section><h2 id="charts">Charts</h2><div class="charts">${figures.join('')}</div></section>`;
}

function tableSection({ id, title, note, head, rows }: Section): string {
  return (
    `<section><h2 id="${id}">${escapeText(title)}</h2><p class="about">${escapeText(note)}</p>` +
    `<div class="wide">${htmlTable({ head, rows })}</div></section>`
  );
}

/** Or a number's place that is empty. */
function isNumber(text: string): boolean {
  return /^[−≤≥<+-]? ?\d/.test(text) || ['–', '', 'none'].includes(text);
}

function htmlTable({ head, rows }: Table): string {
  const kinds = head.map((_, column) =>
    column > 0 && rows.every((cells) => isNumber(cells[column] ?? '')) ? ' class="number"' : '',
  );
  const cell = (text: string, column: number): string =>
    column === 0
      ? `<th scope="row">${escapeText(text)}</th>`
      : `<td${kinds[column]}>${escapeText(text)}</td>`;
  const heads = head
    .map((text, column) => `<th scope="col"${kinds[column]}>${escapeText(text)}</th>`)
    .join('');
  const lines = rows.map((row) => `<tr>${row.map(cell).join('')}</tr>`).join('');
  return `<table><thead><tr>${heads}</tr></thead><tbody>${lines}</tbody></table>`;
}

function barSection({ bars }: Results): string {
  if (bars.length === 0) return '';
  const table = { head: ['', 'quantity', 'measured', 'bar', 'met'], rows: bars.map(barCells) };
  return `<section><h2 id="bars">What FVD was asked for</h2><div class="wide">${htmlTable(table)}</div></section>`;
}

function noiseSection(results: Results): string {
  const rows = noisyRows(results);
  if (rows.length === 0) return '';
  const items = rows.map(({ what, spread }) => `<li>${escapeText(what)}: ${percent(spread)}</li>`);
  return (
    '<section><h2 id="noise">Times that this run cannot vouch for</h2>' +
    '<p>The machine was disturbed: the median is known to so large a share of itself only. Counts are not concerned.</p>' +
    `<ul>${items.join('')}</ul></section>`
  );
}

function omissionSection({ omissions }: Results): string {
  if (omissions.length === 0) return '';
  const items = omissions.map(
    ({ scenario, format, reason }) => `<li>${escapeText(`${scenario}, ${format}: ${reason}`)}</li>`,
  );
  return `<section><h2 id="omissions">Left out</h2><ul>${items.join('')}</ul></section>`;
}
