import { fitGrowth, median, medianInterval, quantile } from '../statistics.ts';
import type { PurposeCalls, Results, SnapshotRow } from '../schema.ts';
import { isQemu } from '../rules.ts';
import { duration, number, percent, size } from '../wording.ts';

/*
 * What the report shows, as data: a chart is drawn from it, and the table behind the chart is written from it, so the
 * two cannot differ. Nothing here knows how anything looks.
 */

/** One of the things that are measured on an axis. */
export interface Axis {
  readonly label: string;
  /** `binary` is logarithmic, and `bytes` linear, both with ticks at powers of two; `sizes` has them where the values are. */
  readonly scale: 'linear' | 'log' | 'counts' | 'binary' | 'bytes' | 'sizes';
  readonly show: (value: number) => string;
}

export interface Point {
  readonly x: number;
  readonly y: number;
  /** The ends of the 95 % interval of y, where there is one. */
  readonly low?: number;
  readonly high?: number;
}

export interface Series {
  readonly format: string;
  readonly points: readonly Point[];
  /** How y grows with x, in words. */
  readonly law?: string;
}

export interface LineChart {
  readonly kind: 'lines';
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
}

/** A bar for each label, made of parts. */
export interface BarChart {
  readonly kind: 'bars';
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  readonly y: Axis;
  readonly bars: readonly Bar[];
}

interface Bar {
  readonly label: string;
  readonly format: string;
  readonly parts: readonly { readonly name: string; readonly value: number }[];
}

export type Chart = LineChart | BarChart;

/** Whole numbers, in groups of three digits. */
function grouped(value: number): string {
  return Math.round(value).toLocaleString('en');
}

const snapshotsAxis: Axis = { label: 'snapshots (N)', scale: 'counts', show: grouped };
const sizeAxis: Axis = { label: 'size of the disk', scale: 'sizes', show: size };
const perSecond: Axis = { label: 'requests a second', scale: 'log', show: grouped };
const milliseconds: Axis = { label: 'time', scale: 'log', show: duration };
const bytesAxis: Axis = { label: 'bytes', scale: 'binary', show: size };
const callsAxis: Axis = { label: 'storage calls', scale: 'linear', show: (value) => number(value) };
const microseconds: Axis = {
  label: 'time',
  scale: 'log',
  show: (value) => (value < 1000 ? `${number(value)} µs` : duration(value / 1000)),
};

/** The law of a series, and how far off it is. */
function lawOf(points: readonly Point[], variable: string): string {
  const { order, error, points: places } = fitGrowth(points.map(({ x, y }) => ({ n: x, value: y })));
  return `${order.replace('n', variable)} within ${percent(error)}, from ${places} places`;
}

function lines(
  chart: Omit<LineChart, 'kind' | 'series'>,
  variable: string,
  series: readonly Series[],
): LineChart[] {
  // A logarithmic axis has no place for nothing, which a time has that is as short as the one taken off it.
  const places = (points: readonly Point[]): readonly Point[] =>
    chart.y.scale === 'log' || chart.y.scale === 'binary' ? points.filter(({ y }) => y > 0) : points;
  const drawn = series
    .map((each) => ({ ...each, points: places(each.points) }))
    .filter(({ points }) => points.length > 0)
    .map((each) => ({ ...each, law: lawOf(each.points, variable) }));
  return drawn.some(({ points }) => points.length > 1) ? [{ kind: 'lines', ...chart, series: drawn }] : [];
}

/** Every chart that the results have something for. */
export function chartsOf(results: Results): Chart[] {
  return [
    ...throughput(results),
    ...memory(results),
    ...snapshotTimes(results),
    ...callsPerWrite(results),
    ...latencies(results),
    ...requestLatencies(results),
    ...bytesPerSnapshot(results),
    ...onDevices(results),
  ];
}

/** Values of one format by rising N. */
function byCount<T extends { format: string; snapshots: number }>(
  rows: readonly T[],
  format: string,
  value: (row: T) => Omit<Point, 'x'>,
): Point[] {
  return rows
    .filter((row) => row.format === format)
    .toSorted((a, b) => a.snapshots - b.snapshots)
    .map((row) => ({ x: row.snapshots, ...value(row) }));
}

function throughput({ reads, overwrites, formats, profile }: Results): Chart[] {
  const request = size(Number(profile.requestBytes));
  const sets = [
    { id: 'reads', title: `Random ${request} reads`, rows: reads, goals: 'G2, G3' },
    {
      id: 'first-overwrites',
      title: `First random ${request} overwrites after a snapshot`,
      rows: overwrites.filter(({ pass }) => pass === 'first'),
      goals: 'G2, G3',
    },
    {
      id: 'steady-overwrites',
      title: `The same overwrites again`,
      rows: overwrites.filter(({ pass }) => pass === 'steady'),
      goals: 'G2, G3',
    },
  ];
  return sets.flatMap(({ id, title, rows, goals }) =>
    lines(
      {
        id,
        title,
        caption: `Median of the rounds, with its 95 % interval. Higher is better; flat is what ${goals} ask for.`,
        x: snapshotsAxis,
        y: perSecond,
      },
      'N',
      formats.map((format) => ({
        format,
        points: byCount(rows, format, ({ roundMicros }) => {
          const { low, median: middle, high } = medianInterval(roundMicros);
          return { y: 1e6 / middle, low: 1e6 / high, high: 1e6 / low };
        }),
      })),
    ),
  );
}

function memory({ sessions, processMemory, formats }: Results): Chart[] {
  return [
    ...lines(
      {
        id: 'metadata-in-memory',
        title: 'Metadata in memory',
        caption:
          'As the driver counts them, after random reads of a warm image. Lower is better; flat is what G4 asks for.',
        x: snapshotsAxis,
        y: bytesAxis,
      },
      'N',
      formats.map((format) => ({
        format,
        points: byCount(sessions, format, ({ residentMetadataBytes }) => ({ y: residentMetadataBytes })),
      })),
    ),
    ...lines(
      {
        id: 'process-memory',
        title: 'Resident set of a fresh process',
        caption: 'Opens the image and reads once. Most of ours is Node itself.',
        x: snapshotsAxis,
        y: { ...bytesAxis, scale: 'bytes' },
      },
      'N',
      formats.map((format) => ({
        format,
        points: byCount(processMemory, format, ({ rssBytes }) => ({ y: median(rssBytes) })),
      })),
    ),
  ];
}

function snapshotTimes(results: Results): Chart[] {
  const operations: readonly [SnapshotRow['operation'], string, string][] = [
    ['create', 'Creating a snapshot', 'G5'],
    ['delete', 'Deleting a snapshot', 'G6'],
  ];
  const { formats, snapshotOperations, profile } = results;
  const small = snapshotOperations.filter(
    ({ format, imageBytes }) => imageBytes === smallImageBytes(results, format),
  );
  const sizes = [...new Set(formats.map((format) => size(smallImageBytes(results, format))))];
  const images = sizes.length > 1 ? `${sizes[0]}, QEMU’s of ${sizes[1]}` : size(Number(profile.imageBytes));
  return operations.flatMap(([operation, title, goal]) => {
    const own = small.filter((row) => row.operation === operation);
    const onSizes = snapshotOperations.filter((row) => row.operation === operation);
    return [
      ...lines(
        {
          id: `${operation}-by-snapshots`,
          title: `${title}, by their number`,
          caption: `Images of ${images}. Lower is better; ${goal} asks for a second at most, at any N.`,
          x: snapshotsAxis,
          y: milliseconds,
        },
        'N',
        formats.map((format) => ({
          format,
          points: byCount(own, format, ({ medianMs }) => ({ y: medianMs })),
        })),
      ),
      ...lines(
        {
          id: `${operation}-by-size`,
          title: `${title}, by the size of the disk`,
          caption: `Fully mapped disks, at the most snapshots each format got to. Lower is better.`,
          x: sizeAxis,
          y: milliseconds,
        },
        'size',
        formats.map((format) => ({ format, points: bySize(onSizes, format) })),
      ),
    ];
  });
}

/** At every size the row with the most snapshots. */
function bySize(rows: readonly SnapshotRow[], format: string): Point[] {
  const most = new Map<number, SnapshotRow>();
  for (const row of rows) {
    if (row.format !== format) continue;
    const other = most.get(row.imageBytes);
    if (other === undefined || other.snapshots < row.snapshots) most.set(row.imageBytes, row);
  }
  return [...most.values()]
    .toSorted((a, b) => a.imageBytes - b.imageBytes)
    .map(({ imageBytes, medianMs }) => ({ x: imageBytes, y: medianMs }));
}

/** Of the images that all formats have: of one size for ours, of another for QEMU's. */
export function smallImageBytes({ profile }: Pick<Results, 'profile'>, format: string): number {
  const { imageBytes } = isQemu(format) ? (profile.qemu as { imageBytes: number }) : profile;
  return Number(imageBytes);
}

const purposes = ['data', 'journal', 'mapping', 'refcount', 'snapshot', 'header'] as const;

function countOf({ reads, writes, zeroes, discards }: PurposeCalls): number {
  return reads + writes + zeroes + discards;
}

function callsPerWrite({ overwrites, formats }: Results): Chart[] {
  const rows = overwrites.filter(({ pass, format }) => pass === 'first' && formats.includes(format));
  const most = (format: string): number =>
    Math.max(0, ...rows.filter((row) => row.format === format).map(({ snapshots }) => snapshots));
  const bars = rows
    .filter(({ format, snapshots }) => snapshots === 0 || snapshots === most(format))
    .map(({ format, snapshots, operations, calls }) => ({
      label: `${format} N=${snapshots.toLocaleString('en')}`,
      format,
      parts: [
        ...purposes.flatMap((purpose) => [
          { name: `${purpose} reads`, value: calls.purposes[purpose].reads / operations },
          {
            name: `${purpose} writes`,
            value: (countOf(calls.purposes[purpose]) - calls.purposes[purpose].reads) / operations,
          },
        ]),
        { name: 'flushes', value: calls.flushes / operations },
      ].filter(({ value }) => value > 0),
    }));
  if (bars.length === 0) return [];
  return [
    {
      kind: 'bars',
      id: 'calls-per-write',
      title: 'Storage calls for one first overwrite, by kind',
      caption:
        'What a guest write comes to below the driver, a flush every 64 writes shared among them. Counts: alike in every run.',
      y: callsAxis,
      bars,
    },
  ];
}

const shares: readonly number[] = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99];

function latencies({ overwrites, formats }: Results): Chart[] {
  const rows = overwrites.filter(({ pass }) => pass === 'first');
  const most = Math.max(0, ...rows.map(({ snapshots }) => snapshots));
  const series = formats.map((format) => {
    const row = rows.find((each) => each.format === format && each.snapshots === most);
    const points =
      (row?.roundMicros.length ?? 0) === 0
        ? []
        : shares.map((share) => ({ x: share, y: quantile(row!.roundMicros, share) }));
    return { format, points };
  });
  if (series.every(({ points }) => points.length === 0)) return [];
  return [
    {
      kind: 'lines',
      id: 'latencies',
      title: `How a first overwrite's time is distributed, N=${most.toLocaleString('en')}`,
      caption:
        'Each value is the mean of a round of writes and the flush after them. A steep end is a long tail.',
      x: { label: 'share of rounds that took no longer', scale: 'linear', show: percent },
      y: microseconds,
      series: series.filter(({ points }) => points.length > 0),
    },
  ];
}

/** Of single requests, where the axes of a workload were measured: at their centre. */
function requestLatencies({ axes, formats }: Results): Chart[] {
  const rows = axes.filter(({ axis }) => axis === 'centre');
  return (['read', 'write'] as const).flatMap((operation) => {
    const series = formats.flatMap((format) => {
      const row = rows.find((each) => each.operation === operation && each.format === format);
      if (row === undefined) return [];
      return [{ format, points: row.latencies.map(({ share, micros: value }) => ({ x: share, y: value })) }];
    });
    if (series.length === 0) return [];
    const title = operation === 'read' ? 'a read takes' : 'a first write after a snapshot takes';
    return [
      {
        kind: 'lines' as const,
        id: `${operation}-latencies`,
        title: `How long ${title}: each request by itself`,
        caption: `Random requests of ${size(rows[0]!.requestBytes)}, one at a time; flushes are not in it. A steep end is a long tail.`,
        x: { label: 'share of requests that took no longer', scale: 'linear' as const, show: percent },
        y: microseconds,
        series,
      },
    ];
  });
}

function bytesPerSnapshot({ histories, idleSnapshots, formats }: Results): Chart[] {
  const bars: Bar[] = formats.flatMap((format) => {
    const history = histories.find((row) => row.format === format);
    const idle = idleSnapshots.find((row) => row.format === format);
    return [
      ...(history === undefined
        ? []
        : [
            {
              label: `${format}, written between`,
              format,
              parts: [
                {
                  name: 'held on the host',
                  value:
                    Math.max(0, history.storageBytes - history.storageBytesBefore) /
                    Math.max(1, history.snapshots),
                },
              ],
            },
          ]),
      ...(idle === undefined
        ? []
        : [
            {
              label: `${format}, idle`,
              format,
              parts: [
                {
                  name: 'held on the host',
                  value: Math.max(0, idle.grownBytes) / Math.max(1, idle.snapshots),
                },
              ],
            },
          ]),
    ];
  });
  if (bars.length === 0) return [];
  const writes = histories[0]?.writesPerSnapshot ?? 0;
  return [
    {
      kind: 'bars',
      id: 'bytes-per-snapshot',
      title: 'Bytes on disk for one snapshot',
      caption: `With ${writes} random writes before each, and of a disk of 1 TiB that nobody writes to. Lower is better.`,
      y: bytesAxis,
      bars,
    },
  ];
}

function onDevices({ devices, formats }: Results): Chart[] {
  const most = Math.max(0, ...devices.map(({ snapshots }) => snapshots));
  return (['first overwrite', 'create', 'delete'] as const).flatMap((workload) => {
    const bars = devices
      .filter((row) => row.workload === workload && row.depth === 1 && row.snapshots === most)
      .filter(({ format }) => formats.includes(format))
      .toSorted((a, b) => a.device.localeCompare(b.device))
      .map(({ device, format, micros }) => ({
        label: `${device} ${format}`,
        format,
        parts: [{ name: 'time', value: micros }],
      }));
    if (bars.length === 0) return [];
    return [
      {
        kind: 'bars' as const,
        id: `devices-${workload.replace(' ', '-')}`,
        title: `Simulated devices: ${workload}, N=${most.toLocaleString('en')}`,
        caption:
          'By a virtual clock, one request at a time; alike in every run, on every machine. Lower is better.',
        y: microseconds,
        bars,
      },
    ];
  });
}
