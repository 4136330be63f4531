import { besideSections } from '../axes/wording.ts';
import { contradicts, goalTitles, reasons, reservation } from '../rules.ts';
import type { GoalName, GoalRow, Results } from '../schema.ts';
import { trendCells, trendGroups, trendHead, trendNote, trendSummary } from '../targets/wording.ts';
import { size } from '../wording.ts';
import { chartsOf } from './charts.ts';
import { type Table, tableOf } from './tables.ts';

/* The report for a mail or a repository: the matrix, what did not hold, and every chart's table. */

export function markdownReport(results: Results): string {
  const { environment: at, profile, seed, durationSeconds, goals, formats } = results;
  const names = Object.keys(goalTitles) as GoalName[];
  const matrix: Table = {
    head: ['goal', ...formats],
    rows: names.map((goal) => [
      `${goal} ${goalTitles[goal]}`,
      ...formats.map((format) => {
        const row = goals.find((each) => each.goal === goal && each.format === format);
        if (row === undefined) return '–';
        return `${row.verdict}${notesOf(row)}`;
      }),
    ]),
  };
  const contradicted = goals
    .filter(contradicts)
    .map(
      ({ goal, format, claim, verdict, measured }) =>
        `- ${goal}, ${format}: claimed ${claim}, measured ${verdict}. ${reasons[format]?.[goal] ?? ''} ${measured}.`,
    );
  return [
    `# Snapshot strategies: ${formats.join(', ')}`,
    '',
    `Profile ${String(profile.name)}, images of ${size(Number(profile.imageBytes))}, seed ${seed}, ${Math.round(durationSeconds)} s. ` +
      `Node ${at.node}, ${at.platform} ${at.kernel}, ${at.cores} × ${at.cpu}, ${at.fileSystem}, ${at.date.slice(0, 10)}.${results.qemu === undefined ? '' : ` QEMU ${results.qemu.version} beside.`}`,
    '',
    ...markdownTable(matrix),
    '',
    '## Claims of the mail that did not hold',
    '',
    ...(contradicted.length === 0 ? ['None.'] : contradicted),
    ...trendLines(results),
    ...besideSections(results).flatMap(({ title, note, head, rows }) => [
      '',
      `## ${title}`,
      '',
      note,
      '',
      ...markdownTable({ head, rows }),
    ]),
    ...chartsOf(results).flatMap((chart) => [
      '',
      `## ${chart.title}`,
      '',
      chart.caption,
      '',
      ...markdownTable(tableOf(chart)),
    ]),
    '',
  ].join('\n');
}

function notesOf(row: GoalRow): string {
  const notes = [reservation(row), contradicts(row) ? `mail: ${row.claim}` : ''].filter(
    (note) => note !== '',
  );
  return notes.length === 0 ? '' : ` (${notes.join(', ')})`;
}

function trendLines({ qemu }: Results): string[] {
  if (qemu === undefined) return [];
  return [
    '',
    `## Our drivers against the original, QEMU ${qemu.version}`,
    '',
    `${trendSummary(qemu.trends)}. ${trendNote}`,
    ...trendGroups(qemu.trends).flatMap(({ title, rows }) => [
      '',
      ...markdownTable({ head: [title, ...trendHead.slice(1)], rows: rows.map(trendCells) }),
    ]),
  ];
}

function markdownTable({ head, rows }: Table): string[] {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), `|${'---|'.repeat(head.length)}`, ...rows.map(line)];
}
