import { besideSections } from './axes/wording.ts';
import { barCells } from './figures.ts';
import { noisyRows } from './noise.ts';
import { median, pairedRatio } from './statistics.ts';
import { contradicts, goalTitles, isQemu, reservation, yardstickOf } from './rules.ts';
import type {
  DeviceRow,
  GoalName,
  GoalRow,
  LargeImageRow,
  OverwriteRow,
  RequestRow,
  Results,
} from './schema.ts';
import { trendCells, trendGroups, trendHead, trendSummary } from './targets/wording.ts';
import { smallImageBytes } from './publish/charts.ts';
import { duration, number, percent, size, times } from './wording.ts';

/*
 * The results for a terminal: what was measured, a line for each format and a column for each N; what no column
 * fits; then goal by goal the verdict beside the claim of 2011. Plain text with aligned columns; headings stand out
 * where the caller says how.
 */

const COLUMN = 12;
/** Of a metric's title, and of a format's name where all are short. */
const TITLE = 38;
const NAME = 8;
const LABEL: number = TITLE + NAME;

/** One metric: its number for a format at a snapshot count, undefined where there is none. */
interface Metric {
  readonly title: string;
  readonly value: (format: string, snapshots: number) => string | undefined;
}

type Style = (text: string) => string;

/** The whole report. `bold` makes a heading stand out. */
export function report(results: Results, bold: Style = (text) => text): string {
  return [
    ...heading(results, bold),
    '',
    ...measurements(results, bold),
    '',
    ...others(results, bold),
    '',
    ...goals(results, bold),
    ...bars(results, bold),
    ...noise(results, bold),
    ...trends(results, bold),
    '',
    ...matrix(results, bold),
    '',
  ].join('\n');
}

function heading({ profile, seed, environment, durationSeconds }: Results, bold: Style): string[] {
  const { node, cpu, cores, platform, kernel, fileSystem } = environment;
  const image = size(Number(profile.imageBytes));
  return [
    bold(
      `cowlab bench: profile ${String(profile.name)}, image ${image}, seed ${seed}, ${Math.round(durationSeconds)} s`,
    ),
    `Node ${node}, ${platform} ${kernel}, ${fileSystem}, ${cores} × ${cpu}`,
  ];
}

function measurements(results: Results, bold: Style): string[] {
  const counts = [...new Set(results.reads.map(({ snapshots }) => snapshots))].toSorted((a, b) => a - b);
  const formats = ['raw', ...results.formats, ...(results.qemu ? [results.qemu.yardstick] : [])];
  const name = Math.max(NAME, ...formats.map(({ length }) => length + 1));
  // Beside the bars at the end of a line.
  const room = Math.floor((LINE - TITLE - name - counts.length - 2) / Math.max(1, counts.length));
  const column = Math.min(COLUMN, room);
  const head = counts.map((count) => `N=${count}`.padStart(column)).join('');
  const lines = [bold(`${'N: existing snapshots'.padEnd(TITLE + name)}${head}`)];
  for (const { title, value } of metrics(results)) {
    let label = title;
    for (const format of formats) {
      const cells = counts.map((count) => value(format, count));
      if (cells.every((cell) => cell === undefined)) continue;
      const numbers = cells.map((cell) => (cell ?? '–').padStart(column)).join('');
      const line = isYardstick(format) ? '' : `  ${sparkline(cells.map((cell) => Number(cell)))}`;
      lines.push(`${label.padEnd(TITLE)}${format.padEnd(name)}${numbers}${line}`.trimEnd());
      label = '';
    }
  }
  return lines;
}

function isYardstick(format: string): boolean {
  return yardstickOf(format) === format;
}

const BLOCKS = '▁▂▃▄▅▆▇█';

/** The numbers of a line as bars, from nothing to the largest of them. */
function sparkline(values: readonly number[]): string {
  const most = Math.max(...values.filter(Number.isFinite));
  const block = (value: number): string =>
    BLOCKS[Math.round((value / most) * (BLOCKS.length - 1))] ?? BLOCKS[0]!;
  return values.map((value) => (Number.isFinite(value) ? block(value) : ' ')).join('');
}

function metrics(results: Results): Metric[] {
  const { reads, overwrites, sessions, opens, processMemory, snapshotOperations } = results;
  const cell = <T extends { format: string; snapshots: number }>(rows: readonly T[]) => {
    return (format: string, snapshots: number): T | undefined =>
      rows.find((row) => row.format === format && row.snapshots === snapshots);
  };
  const of = <T extends { format: string; snapshots: number }>(
    title: string,
    rows: readonly T[],
    show: (row: T) => string,
  ): Metric => ({
    title,
    value: (format, snapshots) => {
      const row = cell(rows)(format, snapshots);
      return row && show(row);
    },
  });
  const pass = (which: OverwriteRow['pass']): OverwriteRow[] =>
    overwrites.filter((row) => row.pass === which);
  const small = snapshotOperations.filter(
    ({ format, imageBytes }) => imageBytes === smallImageBytes(results, format),
  );
  const requests = (name: string, rows: readonly RequestRow[]): Metric[] => [
    of(`${name}: µs each`, rows, ({ roundMicros }) => number(median(roundMicros))),
    of(`${name}: storage calls each`, rows, (row) => number(row.calls.calls / row.operations)),
    of(`${name}: KiB moved each`, rows, (row) => number(row.calls.bytes / row.operations / 1024)),
  ];
  return [
    ...requests('read', reads),
    ...requests('first overwrite', pass('first')),
    ...requests('steady overwrite', pass('steady')),
    of('refcount I/Os, open to close', sessions, ({ working }) => {
      const { reads: read, writes, zeroes, discards } = working.purposes.refcount;
      return String(read + writes + zeroes + discards);
    }),
    of('metadata in memory, KiB', sessions, (row) => number(row.residentMetadataBytes / 1024)),
    of('process memory, MiB', processMemory, ({ rssBytes }) => number(median(rssBytes) / 2 ** 20)),
    of('open and first read, ms', opens, ({ milliseconds }) => number(median(milliseconds))),
    of(
      'create a snapshot, ms',
      small.filter(({ operation }) => operation === 'create'),
      ({ medianMs }) => number(medianMs),
    ),
    of(
      'delete a middle snapshot, ms',
      small.filter(({ operation }) => operation === 'delete'),
      ({ medianMs }) => number(medianMs),
    ),
  ];
}

/** What no column of N fits: a small table for each scenario. */
function others(results: Results, bold: Style): string[] {
  const { allocations, baseCopies, growths, histories, idleSnapshots, largeImages } = results;
  const { omissions, powerLosses, profile } = results;
  const requestBytes = size(Number(profile.requestBytes));
  return [
    ...table(bold, `Random ${requestBytes} writes into an empty image without snapshots, each`, {
      head: ['calls', 'KiB', 'µs', 'refcount I/Os', 'of writes'],
      rows: allocations.map((row) => {
        const { reads, writes, zeroes, discards } = row.calls.purposes.refcount;
        const amounts = [row.calls.calls, row.calls.bytes / 1024].map((value) => value / row.operations);
        const micros = median(row.roundMicros);
        return [
          row.variant === 'as is' ? row.format : `${row.format} ${row.variant}`,
          ...[...amounts, micros, reads + writes + zeroes + discards, row.operations].map(number),
        ];
      }),
    }),
    ...allocations.flatMap(({ format, how }) => (format === 'raw' ? [] : [`  ${format}: ${how}`])),
    '',
    ...table(bold, `A long history: ${String(profile.historyWrites)} writes, flush, snapshot, …, each time`, {
      head: ['snapshots', 'ms', 'KiB', 'calls', 'flushes'],
      rows: histories.map(({ format, snapshots, milliseconds, calls }) => [
        format,
        String(snapshots),
        ...[milliseconds, calls.bytes / 1024, calls.calls, calls.flushes].map((value) =>
          number(value / snapshots),
        ),
      ]),
    }),
    '',
    ...table(bold, 'Reads after that history, against an image that had none', {
      head: [`${requestBytes} random`, 'calls each', 'MiB in a row', 'calls each'],
      rows: histories.map(({ format, randomReads, sequentialReads }) => [
        format,
        ...[randomReads, sequentialReads].flatMap(({ before, after, callsAfter }) => [
          times(pairedRatio(after, before).median),
          number(callsAfter),
        ]),
      ]),
    }),
    '',
    ...table(bold, 'Everything mapped, the data holes', {
      head: ['disk', 'snapshots', 'on disk', 'in memory', 'process', 'opens in', 'apply'],
      rows: largeImages.map((row) => [
        row.format,
        size(row.imageBytes),
        String(row.snapshots),
        size(row.storageBytes),
        size(row.residentMetadataBytes),
        row.rssBytes.length === 0 ? '–' : size(median(row.rssBytes)),
        duration(row.openMs),
        applied(results, row),
      ]),
    }),
    '',
    ...table(bold, 'The same with snapshots that nobody wrote between', {
      head: ['disk', 'snapshots', 'on disk', 'in memory', 'each in'],
      rows: idleSnapshots.map((row) => [
        row.format,
        size(row.imageBytes),
        String(row.snapshots),
        size(row.grownBytes),
        size(row.residentMetadataBytes),
        duration(row.milliseconds / row.snapshots),
      ]),
    }),
    '',
    ...table(bold, `A file without a format: ${requestBytes} writes, each`, {
      head: ['µs', 'of in place', 'flushes'],
      rows: growths.map(({ pattern, operations, flushes, roundMicros }) => [
        pattern,
        number(median(roundMicros)),
        times(pairedRatio(roundMicros, growths[0]?.roundMicros ?? []).median),
        number(flushes / operations),
      ]),
    }),
    '',
    ...table(bold, 'Doing without a base that is all data', {
      head: ['a GiB takes', 'release'],
      rows: baseCopies.map(({ format, method, bytes, milliseconds, releaseMs }) => [
        `${format} ${method}`,
        duration(median(milliseconds) * (2 ** 30 / bytes)),
        releaseMs.length === 0 ? '–' : duration(median(releaseMs)),
      ]),
    }),
    '',
    ...onDevices(results, bold),
    ...besideSections(results).flatMap(({ title, note, head, rows }) => [
      ...table(bold, title, { head: head.slice(1), rows }),
      ...wrapped(note),
      '',
    ]),
    ...table(bold, 'After a power loss, as declared and as `npm run lab` holds it', {
      head: ['the image is', 'repair'],
      rows: powerLosses.map(({ format, leaves, repairable }) => [
        format,
        leaves === 'clean' ? 'clean' : 'sound, leaks',
        leaves === 'clean' ? 'none needed' : repairable ? 'check -r' : 'none',
      ]),
    }),
    ...omissions.map(({ scenario, format, reason }) => `  left out: ${scenario}, ${format}: ${reason}`),
  ];
}

const deviceWorkloads = [
  'read',
  'first overwrite',
  'steady overwrite',
  'create',
  'delete',
] as const satisfies readonly DeviceRow['workload'][];

/** One request after the other on simulated devices, at the most snapshots: what it takes, and against none. */
function onDevices({ devices, formats }: Results, bold: Style): string[] {
  const kinds = [...new Set(devices.map(({ device }) => device))];
  const many = Math.max(0, ...devices.map(({ snapshots }) => snapshots));
  const at = (kind: string, format: string, workload: string, snapshots: number): number | undefined =>
    devices.find(
      (row) =>
        row.device === kind &&
        row.depth === 1 &&
        row.format === format &&
        row.workload === workload &&
        row.snapshots === snapshots,
    )?.micros;
  const measured = formats.filter((format) => devices.some((row) => row.format === format));
  const rows = measured.flatMap((format) =>
    deviceWorkloads.map((workload) => [
      `${format} ${workload}`,
      ...kinds.map((kind) => {
        const [none, most] = [at(kind, format, workload, 0), at(kind, format, workload, many)];
        if (none === undefined || most === undefined) return '–';
        return `${duration(most / 1000)} ${times(most / none)}`;
      }),
    ]),
  );
  if (kinds.length === 0) return [];
  const title = `Simulated devices, one request at a time, N=${many}, and against N=0`;
  return [...table(bold, title, { head: kinds, rows }), ''];
}

/** How long an apply takes on a large image with its snapshots. */
function applied({ snapshotOperations }: Results, { format, imageBytes, snapshots }: LargeImageRow): string {
  const row = snapshotOperations.find(
    (each) =>
      each.operation === 'apply' &&
      each.format === format &&
      each.imageBytes === imageBytes &&
      each.snapshots === snapshots,
  );
  return row === undefined ? '–' : duration(row.medianMs);
}

interface Table {
  readonly head: readonly string[];
  /** Each begins with its label. */
  readonly rows: readonly (readonly string[])[];
}

/** Characters of a line, of a table's labels, and of a column where there is room. */
const LINE = 110;
const LABELS = 32;
const WIDE = 19;

function table(bold: Style, title: string, { head, rows }: Table): string[] {
  const labels = Math.max(LABELS, ...rows.map(([label = '']) => label.length + 3));
  const wide = Math.min(WIDE, Math.floor((LINE - labels) / head.length));
  const widths = head.map((name, column) =>
    Math.max(wide, name.length + 2, ...rows.map((cells) => (cells[column + 1] ?? '').length + 2)),
  );
  const line = (label: string, values: readonly string[]): string =>
    `${label.padEnd(labels)}${values.map((value, column) => value.padStart(widths[column]!)).join('')}`;
  return [bold(title), line('', head), ...rows.map(([label = '', ...values]) => line(`  ${label}`, values))];
}

/** Words in lines of a table's width. */
function wrapped(text: string): string[] {
  return text.split(' ').reduce<string[]>((lines, word) => {
    const last = lines.at(-1);
    if (last === undefined || last.length + word.length >= LINE) return [...lines, `  ${word}`];
    return [...lines.slice(0, -1), `${last} ${word}`];
  }, []);
}

/** Formats that have no bars make no table of them. */
function bars({ bars: rows }: Results, bold: Style): string[] {
  if (rows.length === 0) return [];
  const line = (cells: readonly string[]): string => {
    const [subject = '', quantity = '', ...numbers] = cells;
    const [value = '', limit = '', met = ''] = numbers;
    return `  ${subject.padEnd(37)}${quantity.padEnd(35)}${value.padStart(11)} ${limit.padEnd(18)} ${met}`;
  };
  return [
    '',
    bold('What FVD was asked for'),
    line(['', '', 'measured', 'bar', 'met']),
    ...rows.map((row) => line(barCells(row))),
  ];
}

function noise(results: Results, bold: Style): string[] {
  const rows = noisyRows(results);
  if (rows.length === 0) return [];
  return [
    '',
    bold('Times that this run cannot vouch for: the median is known to so large a share of itself only'),
    ...rows.map(({ what, spread }) => `  ${what}: ${percent(spread)}`),
  ];
}

/** Ours beside QEMU's: the numbers that go with N in the same way are counted, the others named. */
function trends({ qemu }: Results, bold: Style): string[] {
  if (qemu === undefined) return [];
  const widths = [36, 11, 14, 13, 10, 14, 12];
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, index) => cell.padEnd(widths[index]!))
      .join('')
      .trimEnd();
  return [
    '',
    bold(`Our drivers beside QEMU ${qemu.version}`),
    `  ${trendSummary(qemu.trends)}`,
    ...trendGroups(qemu.trends).flatMap(({ title, rows }) => [
      bold(line([title, ...trendHead.slice(1)])),
      ...rows.map(trendCells).map(([label = '', ...cells]) => line([`  ${label}`, ...cells])),
    ]),
  ];
}

/** The verdicts alone, last, where a terminal shows them. A star: not what the mail says. */
function matrix(results: Results, bold: Style): string[] {
  const { goals: rows, formats } = results;
  const judged = formats.filter((format) => rows.some((row) => row.format === format));
  const ours = judged.filter((format) => !isQemu(format));
  const qemu = judged.filter(isQemu);
  return [
    ...matrixOf('Verdicts (*: the mail says otherwise)', rows, ours, bold),
    ...matrixOf(`QEMU ${results.qemu?.version ?? ''}`, rows, qemu, bold),
  ];
}

function matrixOf(title: string, rows: readonly GoalRow[], judged: readonly string[], bold: Style): string[] {
  if (judged.length === 0) return [];
  const cell = (goal: GoalName, format: string): string => {
    const row = rows.find((each) => each.goal === goal && each.format === format);
    return row === undefined ? '–' : `${row.verdict}${contradicts(row) ? '*' : ''} ${reservation(row)}`;
  };
  const names = Object.keys(goalTitles) as GoalName[];
  const longest = (format: string): number =>
    Math.max(...[format, ...names.map((goal) => cell(goal, format).trimEnd())].map(({ length }) => length));
  const widths = judged.map((format) => Math.max(COLUMN, longest(format) + 2));
  const line = (label: string, cells: readonly string[]): string =>
    `${label.padEnd(LABEL)}${cells.map((text, index) => text.padEnd(widths[index]!)).join('')}`.trimEnd();
  return [
    bold(line(title, judged)),
    ...names.map((goal) =>
      line(
        `  ${goal} ${goalTitles[goal]}`,
        judged.map((format) => cell(goal, format)),
      ),
    ),
  ];
}

function saidOf({ agreement, claim }: GoalRow): string {
  if (agreement === undefined) return claim === undefined ? 'silent' : 'undecided';
  return agreement === 'agrees' ? 'confirmed' : `contradicted: ${agreement}`;
}

function goals(results: Results, bold: Style): string[] {
  const name = Math.max(NAME, ...results.formats.map(({ length }) => length + 1));
  // Long names take their room from columns that have some to spare.
  const [column, widest] = name > NAME ? [11, 21] : [COLUMN, 22];
  const columns = (format: string, verdict: string, claim: string, agreement: string): string =>
    `  ${format.padEnd(name)}${verdict.padEnd(column)}${claim.padEnd(column)}${agreement.padEnd(widest)}`;
  const lines = [bold(`${columns('format', 'verdict', 'mail 2011', 'the mail').trimEnd()} measured`)];
  for (const goal of Object.keys(goalTitles) as GoalName[]) {
    const rows = results.goals.filter((row) => row.goal === goal);
    if (rows.length > 0) lines.push(bold(`${goal} ${goalTitles[goal]}`));
    for (const row of rows) {
      const { format, verdict, claim = '–', measured } = row;
      const [first = '', ...rest] = [reservation(row), ...measured.split('; ')].filter((part) => part !== '');
      lines.push(`${columns(format, verdict, claim, saidOf(row))} ${first}`);
      lines.push(...rest.map((part) => `${columns('', '', '', '')} ${part}`));
    }
  }
  return lines;
}
