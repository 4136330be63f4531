import { costOf, growthOf, writtenBytes } from './bars.ts';
import { median, pairedRatio } from './statistics.ts';
import type { BarRow, LargeImageRow, Results } from './schema.ts';
import { number, size } from './wording.ts';

/*
 * The figures of FVD for its README, in Markdown: what a run has measured, and nothing else. Units stand in the heads
 * of columns or are always the same, so that only numbers change from run to run; a test holds the README to that.
 */

const FORMAT = 'fvd';

/** Every table, with a line above it on what it shows. */
export function fvdFigures(results: Results): string {
  return [
    origin(results),
    table('What was asked for', ['', 'quantity', 'measured', 'bar', 'met'], results.bars.map(barCells)),
    ...largeTables(results),
    ...historyTables(results),
    firstPassTable(results),
    growthTable(results),
    copyTable(results),
  ].join('\n\n');
}

function origin({ profile, environment, seed, largeImages }: Results): string {
  const { node, cpu, cores, kernel, platform, fileSystem, date } = environment;
  const others = [...new Set(largeImages.map((row) => row.fileSystem))].filter((each) => each !== fileSystem);
  const files = [fileSystem, ...others.map((each) => `${each} where a file is too long for it`)].join(', ');
  const run = `Profile \`${String(profile.name)}\`, seed ${seed}, ${date.slice(0, 10)}.`;
  return `${run} Node ${node}, ${platform} ${kernel}, ${cores} × ${cpu}, ${files}.`;
}

function table(title: string, head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [`${title}:`, '', line(head), `|${'---|'.repeat(head.length)}`, ...rows.map(line)].join('\n');
}

const KIB = 1024;
const MIB = 1024 * KIB;

function grouped(value: number): string {
  const digits = Number.isInteger(value) ? String(Math.abs(value)) : number(Math.abs(value));
  const text = digits.replace(/\B(?=(?:\d{3})+(?!\d))(?<!\.\d*)/g, ',');
  return value < 0 ? `−${text}` : text;
}

const written: Readonly<Record<BarRow['unit'], (value: number) => string>> = {
  bytes: (value) => `${grouped(value / KIB)} KiB`,
  ms: (value) => `${grouped(value)} ms`,
  count: (value) => (Number.isInteger(value) ? grouped(value) : value.toFixed(3)),
  ratio: (value) => `${value.toFixed(3)}×`,
};

/** A bar as cells: what, quantity, measured, bar, met. */
export function barCells({
  subject,
  quantity,
  unit,
  value,
  relation,
  limit,
  limitOf,
  met,
}: BarRow): string[] {
  const of = limitOf === '' ? '' : ` (${limitOf})`;
  const sign = relation === 'at most' ? '≤' : '≥';
  return [
    subject,
    quantity,
    written[unit](value),
    `${sign} ${written[unit](limit)}${of}`,
    met ? 'yes' : 'no',
  ];
}

function largeTables(results: Results): string[] {
  const images = results.largeImages.filter(({ format }) => format === FORMAT);
  if (images.length === 0) return [];
  const idle = results.idleSnapshots.filter(({ format }) => format === FORMAT);
  return [
    table(
      'Every chunk mapped, the data holes; medians, milliseconds and, in brackets, MiB read and written',
      ['disk', 'N', 'open', 'create', 'delete', 'apply'],
      images.map((image) => [
        size(image.imageBytes),
        grouped(image.snapshots),
        ...(['open', 'create', 'delete', 'apply'] as const).map((operation) => {
          const cost = costOf(results, image, operation);
          return cost === undefined ? '–' : `${number(cost.milliseconds)} (${number(cost.bytes / MIB)})`;
        }),
      ]),
    ),
    table(
      'The same images: MiB on the host and in memory, KiB of each bitmap, milliseconds for the refcounts at open, and MiB by which a process is larger than at N = 0',
      ['disk', 'N', 'on the host', 'in memory', 'bitmap', 'refcounts', 'process'],
      images.map((image) => [
        size(image.imageBytes),
        grouped(image.snapshots),
        number(image.storageBytes / MIB),
        number(image.residentMetadataBytes / MIB),
        grouped((image.counters.bitmapBytes ?? 0) / KIB),
        number(image.refcountScanMs),
        processGrowth(images, image),
      ]),
    ),
    table(
      'Snapshots of such a disk that nobody wrote to: KiB on the host for all of them, MiB in memory before and after, milliseconds each',
      ['disk', 'N', 'on the host', 'before', 'after', 'create'],
      idle.map((row) => [
        size(row.imageBytes),
        grouped(row.snapshots),
        grouped(row.grownBytes / KIB),
        number(row.residentBeforeBytes / MIB),
        number(row.residentMetadataBytes / MIB),
        number(row.milliseconds / row.snapshots),
      ]),
    ),
  ];
}

function processGrowth(images: readonly LargeImageRow[], image: LargeImageRow): string {
  const fresh = images.find(
    ({ imageBytes, snapshots }) => imageBytes === image.imageBytes && snapshots === 0,
  );
  if (fresh === undefined || image === fresh || image.rssBytes.length === 0) return '–';
  const growth = growthOf(image, fresh) / MIB;
  return growth < 0 ? `−${number(-growth)}` : number(growth);
}

function historyTables({ histories, profile }: Results): string[] {
  const writes = String(profile.historyWrites);
  const image = size(Number(profile.historyImageBytes));
  const requestBytes = Number(profile.requestBytes);
  return [
    table(
      `Churn: ${image} fully written, then a snapshot, ${writes} random ${size(requestBytes)} writes and a flush, over and over. MB written, and of those for tables; KiB for each snapshot that were written for tables, and that the host holds beside the data; the time is in seconds`,
      ['format', 'snapshots', 'written', 'for tables', 'flushes', 'time', 'tables each', 'held each'],
      histories.map(({ format, snapshots, writesPerSnapshot, calls, milliseconds, ...row }) => {
        const tables = writtenBytes(calls) - calls.purposes.data.writtenBytes;
        const data = snapshots * writesPerSnapshot * requestBytes;
        const held = row.storageBytes - row.storageBytesBefore - data;
        return [
          format,
          grouped(snapshots),
          grouped(writtenBytes(calls) / 1e6),
          grouped(tables / 1e6),
          grouped(calls.flushes),
          number(milliseconds / 1000),
          grouped(tables / snapshots / KIB),
          grouped(held / snapshots / KIB),
        ];
      }),
    ),
    table(
      'Reads after that, beside an image that had no snapshots: µs each, the median of the speeds against it in paired rounds, and storage reads for each',
      ['format', 'reads', 'without', 'after', 'speed', 'storage reads'],
      histories.flatMap(({ format, randomReads, sequentialReads }) =>
        (
          [
            [`random ${size(requestBytes)}`, randomReads],
            ['1 MiB in a row', sequentialReads],
          ] as const
        ).map(([name, { before, after, callsAfter }]) => [
          format,
          name,
          number(median(before)),
          number(median(after)),
          (1 / pairedRatio(after, before).median).toFixed(3),
          number(callsAfter),
        ]),
      ),
    ),
  ];
}

function firstPassTable({ overwrites, profile }: Results): string {
  const rows = overwrites.filter(({ format, pass }) => format === FORMAT && pass === 'first');
  const [before] = rows;
  return table(
    `First pass: random ${size(Number(profile.requestBytes))} overwrites of blocks that the snapshot holds, a flush every ${String(profile.flushEvery)}; for each write but the last two columns, µs for each and the median ratio to N = 0 in paired rounds`,
    ['N', 'writes', 'storage writes', 'journal writes', 'storage reads', 'flushes', 'µs', 'time of N = 0'],
    rows.map(({ snapshots, operations, calls, roundMicros }) => {
      const purposes = Object.values(calls.purposes);
      const reads = purposes.reduce((sum, each) => sum + each.reads, 0);
      const writes = purposes.reduce((sum, each) => sum + each.writes, 0);
      const journal = calls.purposes.journal.writes;
      return [
        grouped(snapshots),
        grouped(operations),
        ...[writes - journal, journal, reads, calls.flushes].map((value) => (value / operations).toFixed(3)),
        number(median(roundMicros)),
        pairedRatio(roundMicros, before?.roundMicros ?? []).median.toFixed(3),
      ];
    }),
  );
}

function growthTable({ growths }: Results): string {
  const [before] = growths;
  return table(
    'What the file system asks for such a pass, without any format: µs for each write, and the median ratio in paired rounds',
    ['pattern', 'writes', 'flushes', 'µs', 'ratio'],
    growths.map(({ pattern, operations, flushes, roundMicros }) => [
      pattern,
      grouped(operations),
      grouped(flushes),
      number(median(roundMicros)),
      pairedRatio(roundMicros, before?.roundMicros ?? []).median.toFixed(3),
    ]),
  );
}

function copyTable({ baseCopies }: Results): string {
  const raw = baseCopies.find(({ method }) => method === 'file copy');
  return table(
    'Doing without a base that is all data: seconds for a GiB, against a copy of the file, and milliseconds for letting go of it',
    ['format', 'method', 's/GiB', 'ratio', 'release'],
    baseCopies.map(({ format, method, bytes, milliseconds, releaseMs }) => [
      format,
      method,
      number((median(milliseconds) / 1000) * (2 ** 30 / bytes)),
      (median(milliseconds) / median(raw?.milliseconds ?? [])).toFixed(2),
      releaseMs.length === 0 ? '–' : number(median(releaseMs)),
    ]),
  );
}
