import { goalTitles, reasons } from '../rules.ts';
import type { GoalName, Results } from '../schema.ts';
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
        return row.agreement === 'agrees' ? row.verdict : `${row.verdict} (mail: ${row.claim})`;
      }),
    ]),
  };
  const contradicted = goals
    .filter(({ agreement }) => agreement !== 'agrees')
    .map(
      ({ goal, format, claim, verdict, measured }) =>
        `- ${goal}, ${format}: claimed ${claim}, measured ${verdict}. ${reasons[format]?.[goal] ?? ''} ${measured}.`,
    );
  return [
    `# Snapshot strategies: ${formats.join(', ')}`,
    '',
    `Profile ${String(profile.name)}, images of ${size(Number(profile.imageBytes))}, seed ${seed}, ${Math.round(durationSeconds)} s. ` +
      `Node ${at.node}, ${at.platform} ${at.kernel}, ${at.cores} × ${at.cpu}, ${at.fileSystem}, ${at.date.slice(0, 10)}.`,
    '',
    ...markdownTable(matrix),
    '',
    '## Claims of the mail that did not hold',
    '',
    ...(contradicted.length === 0 ? ['None.'] : contradicted),
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

function markdownTable({ head, rows }: Table): string[] {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), `|${'---|'.repeat(head.length)}`, ...rows.map(line)];
}
