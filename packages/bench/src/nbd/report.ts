import { markdownTable, plainTable, type TitledTable } from '../titled-table.ts';
import { median } from '../statistics.ts';
import { number, size } from '../wording.ts';
import { NBDKIT_FILE, QEMU_NBD } from './judge.ts';
import type { Beside, ConversionRow, NbdResults, RequestRow } from './schema.ts';

/*
 * A run of the NBD benchmark as tables: for a terminal, and in Markdown for the README of the server. Both have the
 * same cells; units stand in the heads of columns, so that only numbers change from run to run.
 */

function ratioCells(beside: Beside | null | undefined): string[] {
  if (beside === null || beside === undefined) return ['–', '–', '–'];
  const { ratio, bar, met } = beside;
  return [
    `${ratio.median.toFixed(2)} (${ratio.low.toFixed(2)}–${ratio.high.toFixed(2)})`,
    bar === null ? '–' : `≥ ${bar}`,
    bar === null ? '–' : met ? 'yes' : 'no',
  ];
}

function requestCells(row: RequestRow): string[] {
  const { server, ours, operation, pattern, requestBytes, depth, perSecond } = row;
  const middle = median(perSecond);
  const to = (peer: string): string[] => ratioCells(row.beside.find((each) => each.peer === peer));
  return [
    `${pattern} ${operation}`,
    size(requestBytes),
    String(depth),
    ours ? `ours, ${server}` : server,
    middle.toFixed(0),
    number((middle * requestBytes) / 2 ** 20),
    ...to(QEMU_NBD),
    ...to(NBDKIT_FILE),
  ];
}

function conversionCells(row: ConversionRow): string[] {
  const { from, to, content, diskBytes, peer, qemuMs, oursMs, commandMs, beside, commandBeside } = row;
  const middle = (samples: readonly number[]): string =>
    samples.length === 0 ? '–' : number(median(samples));
  const disk = content === 'data' ? size(diskBytes) : `${size(diskBytes)}, empty`;
  return [
    `${from} → ${to}`,
    disk,
    peer,
    middle(qemuMs),
    middle(oursMs),
    middle(commandMs),
    ...ratioCells(beside),
    ...ratioCells(commandBeside),
  ];
}

const verdict = ['bar', 'met'];

function tablesOf({ requests, conversions, profile }: NbdResults): TitledTable[] {
  const rounds = `the median of ${String(profile.rounds)} rounds and its 95 % interval`;
  return [
    {
      title: `Requests of fio over a Unix socket. Ratio: ours ÷ theirs, ${rounds}`,
      head: [
        'request',
        'size',
        'depth',
        'server',
        'per second',
        'MiB/s',
        `beside ${QEMU_NBD}`,
        ...verdict,
        `beside ${NBDKIT_FILE}`,
        ...verdict,
      ],
      rows: requests.map(requestCells),
      leftColumns: 4,
    },
    {
      title: `Conversions, ms: \`qemu-img\` whole, ours in a running process, and \`cowlab\` whole; targets durable. Ratio: QEMU's time ÷ ours, the median of ${String(profile.conversions)} rounds`,
      head: [
        'conversion',
        'disk',
        'QEMU converts',
        'QEMU',
        'ours',
        'cowlab',
        'ratio of ours',
        ...verdict,
        'ratio of cowlab',
        ...verdict,
      ],
      rows: conversions.map(conversionCells),
      leftColumns: 3,
    },
  ];
}

function origin({ profile, environment, tools }: NbdResults): string {
  const { node, cpu, cores, kernel, platform, fileSystem, date } = environment;
  const versions = Object.entries(tools).map(([name, version]) => `${name} ${version}`);
  return (
    `Profile \`${String(profile.name)}\`, ${date.slice(0, 10)}. ${versions.join(', ')}. ` +
    `Node ${node}, ${platform} ${kernel}, ${cores} × ${cpu}, ${fileSystem}.`
  );
}

function besides({ requests, conversions }: NbdResults): Beside[] {
  return [
    ...requests.flatMap(({ beside }) => beside),
    ...conversions.flatMap(({ beside, commandBeside }) => [beside, commandBeside]),
  ].filter((each) => each !== null);
}

/** What a run has measured, for people at a terminal. */
export function nbdReport(results: NbdResults): string {
  const short = besides(results).filter(({ met }) => !met).length;
  return [
    origin(results),
    ...tablesOf(results).map((table) => `\n${plainTable(table)}`),
    `\n${short === 0 ? 'every bar is met' : `${short} ratios fall short of their bar`}\n`,
  ].join('\n');
}

/** The same in Markdown. */
export function nbdFigures(results: NbdResults): string {
  return [origin(results), ...tablesOf(results).map(markdownTable)].join('\n\n');
}
