import { median } from '../statistics.ts';
import { markdownTable, plainTable, type TitledTable } from '../titled-table.ts';
import { number, size } from '../wording.ts';
import { sumOf } from './judge.ts';
import type { CallCounts, CallRow, CommandRow, QemuResults, Ratio, SpeedRow } from './schema.ts';

/*
 * A run against QEMU as tables: for a terminal, and in Markdown for the README of a driver. Both have the same cells;
 * units stand in the heads of columns, so that only numbers change from run to run.
 */

function rounded(ratio: number): string {
  return ratio.toFixed(2);
}

function spread({ median: middle, low, high }: Ratio): string[] {
  return [rounded(middle), `${rounded(low)}–${rounded(high)}`];
}

function verdict({ bar, met }: { readonly bar: number | null; readonly met: boolean }): string[] {
  return [bar === null ? '–' : `≥ ${bar}`, bar === null ? '–' : met ? 'yes' : 'no'];
}

/** Microseconds for one request. */
function perRequest(milliseconds: readonly number[], requests: number): string {
  return number((median(milliseconds) * 1000) / requests);
}

function speedCells(row: SpeedRow): string[] {
  const { format, operation, pattern, requestBytes, depth, requests, qemuMs, oursMs } = row;
  return [
    format,
    operation,
    pattern,
    size(requestBytes),
    String(depth),
    perRequest(qemuMs, requests),
    perRequest(oursMs, requests),
    ...spread(row.ratio),
    ...verdict(row),
  ];
}

function commandCells(row: CommandRow): string[] {
  const { format, operation, imageBytes, snapshots, qemuMs, oursMs, commandMs, commandRatio } = row;
  return [
    format,
    operation,
    size(imageBytes),
    String(snapshots),
    number(median(qemuMs)),
    number(median(oursMs)),
    commandMs.length === 0 ? '–' : number(median(commandMs)),
    ...spread(row.ratio),
    ...verdict(row),
    commandRatio === null ? '–' : rounded(commandRatio.median),
  ];
}

function callCells(row: CallRow): string[] {
  const { format, operation, pattern, requestBytes, writes, qemu, ours, met } = row;
  const each = (counts: CallCounts): string[] => [
    (sumOf(counts) / writes).toFixed(3),
    (counts.flushes / writes).toFixed(3),
  ];
  return [format, operation, pattern, size(requestBytes), ...each(qemu), ...each(ours), met ? 'yes' : 'no'];
}

const timeHead = ['ratio', 'low–high', 'bar', 'met'];

function tablesOf({ speeds, commands, calls, profile }: QemuResults): TitledTable[] {
  const every = String(profile.flushEvery);
  return [
    {
      title: `Requests, µs each; a first pass has a flush every ${every}. Ratio: QEMU's time ÷ ours, the median of ${String(profile.repetitions)} repetitions`,
      head: ['format', 'request', 'order', 'size', 'depth', 'QEMU', 'ours', ...timeHead],
      rows: speeds.map(speedCells),
    },
    {
      title: 'Commands, ms: `qemu-img` whole, ours in process (open, operate, close), and `cowlab` whole',
      head: ['format', 'operation', 'disk', 'N', 'QEMU', 'ours', 'cowlab', ...timeHead, 'ratio of cowlab'],
      rows: commands.map(commandCells),
    },
    {
      title: `Storage calls and flushes for each guest write, a flush every ${every}`,
      head: [
        'format',
        'request',
        'order',
        'size',
        'QEMU: calls',
        'flushes',
        'ours: calls',
        'flushes',
        'no more than QEMU',
      ],
      rows: calls.map(callCells),
    },
  ]
    .filter(({ rows }) => rows.length > 0)
    .map((table) => ({ ...table, leftColumns: 4 }));
}

function origin({ profile, environment, qemu, settings }: QemuResults): string {
  const { node, cpu, cores, kernel, platform, fileSystem, date } = environment;
  const ways = settings.map(({ depth, aio }) => `${aio} at depth ${depth}`).join(', ');
  return (
    `Profile \`${String(profile.name)}\`, ${date.slice(0, 10)}. QEMU ${qemu}, by ${ways}, writeback. ` +
    `Node ${node}, ${platform} ${kernel}, ${cores} × ${cpu}, ${fileSystem}.`
  );
}

/** What a run has measured, for people at a terminal. */
export function qemuReport(results: QemuResults): string {
  const { settings, omissions } = results;
  const tried = settings.map(({ depth, tried: ways }) => {
    const each = ways.map((way) =>
      'refused' in way ? `${way.aio} refused (${way.refused})` : `${way.aio} ${number(way.milliseconds)} ms`,
    );
    return `  depth ${depth}: ${each.join(', ')}`;
  });
  const short = [...results.speeds, ...results.commands, ...results.calls].filter(({ met }) => !met).length;
  return [
    origin(results),
    ...tried,
    ...tablesOf(results).map((table) => `\n${plainTable(table)}`),
    ...(omissions.length > 0 ? ['\nLeft out:'] : []),
    ...omissions.map(({ what, reason }) => `  ${what}: ${reason}`),
    `\n${short === 0 ? 'every bar is met' : `${short} rows fall short of their bar`}\n`,
  ].join('\n');
}

/** The rows of one format, and raw beside them, in Markdown. */
export function qemuFigures(results: QemuResults, format: string): string {
  const own = <T extends { readonly format: string }>(rows: readonly T[]): T[] =>
    rows.filter((row) => row.format === format || row.format === 'raw');
  const { speeds, commands, calls } = results;
  const tables = tablesOf({ ...results, speeds: own(speeds), commands: own(commands), calls: own(calls) });
  return [origin(results), ...tables.map(markdownTable)].join('\n\n');
}
