import { median, pairedRatio } from '../statistics.ts';
import type { Calls, OverwriteRow, Results } from '../schema.ts';
import { duration, number, percent, size, times } from '../wording.ts';
import type { AblationRow, AxisRow } from './schema.ts';

/* What was measured beside the goals, as tables: the same for the terminal, the page and Markdown. */

export interface Section {
  readonly id: string;
  readonly title: string;
  readonly note: string;
  readonly head: readonly string[];
  /** Each begins with its label. */
  readonly rows: readonly (readonly string[])[];
}

export function besideSections(results: Results): Section[] {
  return [questions(results), ablations(results), ...axes(results)].filter(({ rows }) => rows.length > 0);
}

function written({ purposes }: Calls): number {
  return Object.values(purposes).reduce((sum, each) => sum + each.writtenBytes, 0);
}

const NONE = '–';

/** A line for each question, a column for each format. */
function questions(results: Results): Section {
  const { formats, services, histories, opens, powerLosses, profile } = results;
  const most = Math.max(0, ...opens.map(({ snapshots }) => snapshots));
  const first = (format: string): OverwriteRow | undefined =>
    results.overwrites.find((row) => row.pass === 'first' && row.format === format && row.snapshots === most);
  const [service, history] = [services[0], histories[0]];
  const aged = `${service?.snapshots ?? 0} snapshots`;
  const asked: [string, (format: string) => string | undefined][] = [
    [`open and read once, N=${most}`, (format) => of(opens, format, most, (row) => ms(row.milliseconds))],
    ['open', (format) => of(services, format, undefined, (row) => ms(row.openMs))],
    ['check', (format) => of(services, format, undefined, (row) => ms(row.checkMs))],
    [
      `on disk for a snapshot and ${history?.writesPerSnapshot ?? 0} writes`,
      (format) =>
        of(histories, format, undefined, (row) =>
          size(Math.max(0, row.storageBytes - row.storageBytesBefore) / Math.max(1, row.snapshots)),
        ),
    ],
    [
      `written for a guest’s byte, first pass, N=${most}`,
      (format) => {
        const row = first(format);
        const bytes = row && row.operations * Number(profile.requestBytes);
        return row && times(written(row.calls) / bytes!);
      },
    ],
    [
      'the same, a snapshot now and then',
      (format) =>
        of(services, format, undefined, ({ writing, guestBytes }) => times(written(writing) / guestBytes)),
    ],
    [
      'open the oldest snapshot',
      (format) => of(services, format, undefined, (row) => ms(row.snapshotOpenMs)),
    ],
    [
      'read it: time against the disk’s',
      (format) =>
        of(services, format, undefined, ({ snapshotReads: { before, after } }) =>
          times(pairedRatio(after, before).median),
        ),
    ],
    [
      'read it: storage reads for one',
      (format) => of(services, format, undefined, ({ snapshotReads: { callsAfter } }) => number(callsAfter)),
    ],
    [
      'tell what differs from it',
      (format) =>
        of(services, format, undefined, ({ diff }) =>
          diff === undefined ? 'cannot' : ms(diff.milliseconds),
        ),
    ],
    [
      'bytes read for that',
      (format) => of(services, format, undefined, ({ diff }) => diff && size(diff.calls.bytes)),
    ],
    [
      'delete one that holds a quarter of the disk',
      (format) => of(services, format, undefined, ({ deletion }) => duration(deletion.milliseconds)),
    ],
    [
      'space back then, of what it alone held',
      (format) =>
        of(services, format, undefined, ({ deletion }) =>
          percent(deletion.returnedBytes / deletion.heldBytes),
        ),
    ],
    [
      'after a power loss',
      (format) =>
        of(powerLosses, format, undefined, ({ leaves, repairable }) => {
          if (leaves === 'clean') return 'clean';
          return repairable ? 'sound, leaks; check -r' : 'sound, leaks';
        }),
    ],
  ];
  const writes =
    service === undefined ? 0 : service.guestBytes / service.snapshots / Number(profile.requestBytes);
  const own = formats.filter((format) => services.some((row) => row.format === format));
  return {
    id: 'questions',
    title: 'What users ask',
    note: `An image of ${size(service === undefined ? 0 : 4 * service.deletion.heldBytes)}, all written, with ${aged}, ${writes} writes before each; N: the images of the goals. Medians.`,
    head: ['', ...own],
    rows:
      own.length === 0
        ? []
        : asked.map(([question, answer]) => [question, ...own.map((format) => answer(format) ?? NONE)]),
  };
}

function ms(milliseconds: readonly number[]): string | undefined {
  return milliseconds.length === 0 ? undefined : duration(median(milliseconds));
}

function of<T extends { format: string; snapshots?: number }>(
  rows: readonly T[],
  format: string,
  snapshots: number | undefined,
  show: (row: T) => string | undefined,
): string | undefined {
  const row = rows.find(
    (each) => each.format === format && (snapshots === undefined || each.snapshots === snapshots),
  );
  return row && show(row);
}

const partNames: Readonly<Record<string, string>> = {
  fvd: 'FVD',
  'fvd-live-refcounts': 'live refcounts',
  'fvd-chunk-copy': 'chunks of 1 MiB',
  'fvd-64k': 'blocks of 64 KiB',
  'fvd-unjournaled': 'no journal',
};

/** A line for each part of FVD that is left out, and each workload. */
function ablations({ ablations: rows }: Results): Section {
  const perWrite = (value: number, { operations }: AblationRow): string => number(value / operations);
  return {
    id: 'ablations',
    title: 'What each part of FVD is worth',
    note:
      'The same driver without one of its parts: refcounts of all host chunks in memory and written before each flush, as QCOW2 has ' +
      'them; copy-on-write by the chunk, as the original has it; blocks of 64 KiB instead of 4 KiB; the table instead of a journal. ' +
      'Random writes into an empty image, then twice over what a snapshot holds; snapshots of the smallest of the large disks, ' +
      'everything mapped. For each operation.',
    head: ['', 'calls', 'KiB', 'flushes', 'refcount I/Os', 'time', 'of FVD’s', 'refcounts held'],
    rows: rows
      .map((row) => {
        const { format, workload, calls, roundMicros, residentRefcountBytes } = row;
        const whole = rows.find((each) => each.format === 'fvd' && each.workload === workload);
        const { refcount } = calls.purposes;
        return [
          `${workload}: ${partNames[format] ?? format}`,
          perWrite(calls.calls, row),
          perWrite(calls.bytes / 1024, row),
          perWrite(calls.flushes, row),
          seldom((refcount.reads + refcount.writes) / row.operations),
          micros(median(roundMicros)),
          times(pairedRatio(roundMicros, whole?.roundMicros ?? []).median),
          residentRefcountBytes === 0 ? 'none' : size(residentRefcountBytes),
        ];
      })
      .toSorted((one, other) => workloadOf(one) - workloadOf(other)),
  };
}

/** What is not nothing does not read as nothing. */
function seldom(value: number): string {
  return value > 0 && value < 0.005 ? '< 0.01' : number(value);
}

const workloads = ['allocation', 'first overwrite', 'steady overwrite', 'create', 'delete'];

function workloadOf([label = '']: readonly string[]): number {
  return workloads.findIndex((workload) => label.startsWith(`${workload}:`));
}

function micros(value: number): string {
  return value < 1000 ? `${number(value)} µs` : duration(value / 1000);
}

/** A line for each setting, a column for each format: time, and storage calls. */
function axes({ axes: rows, formats }: Results): Section[] {
  const columns = ['raw', ...formats].filter((format) => rows.some((row) => row.format === format));
  const settings = [...new Set(rows.map(({ axis, setting }) => `${axis}: ${setting}`))];
  const cell = (operation: AxisRow['operation'], name: string, format: string): string => {
    const row = rows.find(
      (each) =>
        each.operation === operation && each.format === format && `${each.axis}: ${each.setting}` === name,
    );
    if (row === undefined) return NONE;
    return `${micros(median(row.roundMicros))}; ${number(row.calls.calls / row.operations)}`;
  };
  return (['read', 'write'] as const).map((operation) => ({
    id: `axes-${operation}`,
    title: operation === 'read' ? 'Reads along other axes' : 'First writes after a snapshot along other axes',
    note:
      `Time of one request${operation === 'write' ? ', its share of the flush included' : ''}; storage calls for it. ` +
      'One axis at a time away from the centre; a snapshot has just been taken.',
    head: ['', ...columns],
    rows: settings.map((name) => [name, ...columns.map((format) => cell(operation, name, format))]),
  }));
}
