import { type Interval, median, pairedRatio } from './statistics.ts';
import type {
  AllocateRow,
  Calls,
  GoalName,
  GoalRow,
  OverwriteRow,
  ProcessMemoryRow,
  RequestRow,
  Results,
  SessionRow,
  SnapshotRow,
  Verdict,
} from './schema.ts';
import { duration, percent, size, times } from './wording.ts';

/*
 * From numbers to verdicts: every threshold of the benchmark, and the claims it tests. The words are those of
 * C. Tang's mail to qemu-devel of 13 March 2011; the mail names no thresholds, these are ours:
 *
 *              ideal     good      ok       poor     very poor
 *   G1         none      ≤ 0.1 %   ≤ 1 %    ≤ 50 %   more       storage calls or bytes spent on bookkeeping
 *   G2, G3     ≤ 1.1×    ≤ 1.5×    ≤ 3×     ≤ 10×    more       of N = 0: the worst of calls, bytes, time
 *   G4         ≤ 1.01×   ≤ 1.1×    ≤ 2×     ≤ 10×    more       of N = 0: metadata in memory
 *   G5, G6     ≤ 0.1 s   ≤ 1 s     ≤ 3 s    ≤ 10 s   more       the slowest median of all images
 *
 * G1: the mail asks that no refcount table is cached or updated; who does either is "ok" at best. With the
 *   bookkeeping switched off for comparison, the share is the difference; without, what is tagged `refcount`.
 * G2, G3: three phases, and the worst one decides: reads, the first overwrite after the snapshot, steady overwrites.
 *   A time counts as slower only by what a bootstrap interval is sure of (measure.ts).
 * G4: processes are noisy. Growth of the resident set below 8 MiB is not counted; above, it has a scale of its own.
 */

/** From best to worst. */
export const grades: readonly Verdict[] = ['ideal', 'good', 'ok', 'poor', 'very poor'];

/** The largest values that are still ideal, good, ok, poor. */
type Scale = readonly [ideal: number, good: number, ok: number, poor: number];

export const scales: Readonly<Record<'bookkeeping' | 'speed' | 'memory' | 'growth' | 'seconds', Scale>> = {
  bookkeeping: [0, 0.001, 0.01, 0.5],
  speed: [1.1, 1.5, 3, 10],
  memory: [1.01, 1.1, 2, 10],
  /** Bytes by which a process grows. */
  growth: [8 * 2 ** 20, 12 * 2 ** 20, 32 * 2 ** 20, 128 * 2 ** 20],
  seconds: [0.1, 1, 3, 10],
};

export const claims: Readonly<Record<string, Readonly<Partial<Record<GoalName, Verdict>>>>> = {
  fvd: { G1: 'ideal', G2: 'ideal', G3: 'ideal', G4: 'ideal', G5: 'ideal', G6: 'ideal' },
  qcow2: { G1: 'poor', G2: 'poor', G3: 'poor', G4: 'poor', G5: 'good', G6: 'good' },
  vmdk: { G1: 'good', G2: 'ok', G3: 'very poor', G4: 'very poor', G5: 'good', G6: 'poor' },
  // Of a chain that is read as one, the mail says only that deleting stays slow.
  'vmdk-optimised': { G6: 'poor' },
  // The mail is about QEMU. Of chains of QCOW2 files it says nothing.
  'qemu-qcow2': { G1: 'poor', G2: 'poor', G3: 'poor', G4: 'poor', G5: 'good', G6: 'good' },
  'qemu-vmdk-chain': {
    G1: 'good',
    G2: 'ok',
    G3: 'very poor',
    G4: 'very poor',
    G5: 'good',
    G6: 'poor',
  },
};

/** Why a format does as it does, in a sentence. */
export const reasons: Readonly<Record<string, Readonly<Partial<Record<GoalName, string>>>>> = {
  fvd: {
    G1: 'Reference counts track snapshots only: an image that never had one has none, and writes take the table and its journal.',
    G2: 'A first overwrite goes to new space by the block, and the journal notes it: nothing is copied, and no count changes.',
    G3: 'The disk has one table of its own, whatever number of snapshots stand beside it.',
    G4: 'Counts and tables of snapshots stay on disk; the disk has its table and two bits a chunk in memory.',
    G5: 'The pages of the table that have changed are written, and the counts of the chunks raised in one sequential piece.',
    G6: 'The counts are lowered in one sequential piece; no data move.',
  },
  qcow2: {
    G1: 'Each cluster that is taken has its count raised, in a table that is cached and written back.',
    G2: 'A first overwrite copies the whole cluster, takes a new one, and changes counts and a table.',
    G3: 'The disk reads through tables of its own, however many snapshots share clusters with it.',
    G4: 'The caches have the size they were given; tables of snapshots are read when they are used.',
    G5: 'Every table of the disk is read and the count of every cluster raised: time follows the mapped size.',
    G6: 'Every table of the snapshot is read and the count of every cluster lowered: time follows the mapped size.',
  },
  vmdk: {
    G1: 'A snapshot is a file of its own; an image without one has only its tables.',
    G2: 'A first overwrite fills a whole grain in the new file from the one below.',
    G3: 'What only the bottom of the chain has is looked for in every file above it.',
    G4: 'Each file of the chain is open, and has a directory and tables in memory.',
    G5: 'A new, empty file is put over the old one.',
    G6: 'What the child lacks has to be moved from the deleted file, or the other way round: time follows the data.',
  },
  'vmdk-optimised': {
    G6: 'One map for reading moves no grain: what a deleted file holds is still copied, or what its child does.',
  },
  'qemu-qcow2': {
    G1: 'Each cluster that is taken has its count raised, in a table that is cached and written back.',
    G2: 'A first overwrite copies the whole cluster, takes a new one, and changes counts and a table.',
    G3: 'The disk reads through tables of its own, however many snapshots share clusters with it.',
    G4: 'The list of snapshots is in memory; their tables are not.',
    G5: 'Every table of the disk is read and the count of every cluster raised: time follows the mapped size.',
    G6: 'Every table of the snapshot is read and the count of every cluster lowered: time follows the mapped size.',
  },
  'qemu-qcow2-chain': {
    G1: 'A file without a backing file has its counts all the same.',
    G2: 'A first overwrite copies the whole cluster from the file below into a new one.',
    G3: 'What only the bottom of the chain has is asked of every file above it, a layer of QEMU each.',
    G4: 'Each file of the chain is open, with tables and a cache of its own.',
    G5: 'A new, empty file is put over the old one; to make it, QEMU opens the whole chain.',
    G6: 'What the top file holds is written into the one below it, and QEMU opens the chain for that.',
  },
  'qemu-vmdk-chain': {
    G1: 'A file without a parent has only its tables, which are written with each new grain.',
    G2: 'A first overwrite fills a whole grain in the new file from the one below.',
    G3: 'What only the bottom of the chain has is asked of every file above it, a layer of QEMU each.',
    G4: 'Each file of the chain is open, and has a directory and tables in memory.',
    G5: 'A new, empty file is put over the old one; to make it, QEMU opens the whole chain.',
    G6: 'What the top file holds is written into the one below it, and QEMU opens the chain for that.',
  },
};

/** Raw in the same program, which a target is measured against. */
export function yardstickOf(format: string): string {
  return isQemu(format) ? 'qemu-raw' : 'raw';
}

const counterparts: Readonly<Record<string, string>> = { 'qemu-qcow2': 'qcow2', 'qemu-vmdk-chain': 'vmdk' };

/** Which of ours an original is the original of; undefined for what is none, or has none of ours. */
export function counterpartOf(format: string): string | undefined {
  return counterparts[format];
}

/** Whether rows of that name are QEMU's own. */
export function isQemu(format: string): boolean {
  return format.startsWith('qemu-');
}

export const goalTitles: Readonly<Record<GoalName, string>> = {
  G1: 'no harm to an image without snapshots',
  G2: 'one snapshot: as fast as none',
  G3: 'many snapshots: as fast as none',
  G4: 'many snapshots: no more memory',
  G5: 'creating a snapshot is fast',
  G6: 'deleting a snapshot is fast',
};

export function grade(value: number, scale: Scale): Verdict {
  return grades[scale.findIndex((limit) => value <= limit)] ?? 'very poor';
}

function worse(one: Verdict, other: Verdict): Verdict {
  return grades.indexOf(one) >= grades.indexOf(other) ? one : other;
}

/** What the rules need of the results. */
export type Measurements = Pick<
  Results,
  'reads' | 'overwrites' | 'allocations' | 'sessions' | 'processMemory' | 'snapshotOperations'
>;

interface Judgement {
  readonly value: number;
  readonly measured: string;
  readonly verdict: Verdict;
  /** Of a question about many snapshots, where they are fewer than the run's most. */
  readonly snapshots?: number;
}

/** The largest N: of all of our formats, which is one, and of each of QEMU's targets, whose budgets end where they do. */
function manyFor(format: string, { reads, sessions }: Measurements): number {
  const rows = isQemu(format) ? reads.filter((row) => row.format === format) : sessions;
  return Math.max(0, ...rows.map(({ snapshots }) => snapshots));
}

/**
 * One row for each goal and format of which the mail says something, and for each of QEMU's targets. A goal whose scenario
 * was left out for a format has no row.
 */
export function judge(results: Measurements, formats: readonly string[]): GoalRow[] {
  const judges: Record<GoalName, (format: string) => Judgement | undefined> = {
    G1: (format) => judgeBookkeeping(results, format),
    G2: (format) => judgeSpeed(results, format, 1),
    G3: (format) => judgeMany(results, format),
    G4: (format) => judgeMemory(results, format, manyFor(format, results)),
    G5: (format) => judgeSeconds(results, format, 'create'),
    G6: (format) => judgeSeconds(results, format, 'delete'),
  };
  const rows: GoalRow[] = [];
  for (const goal of Object.keys(judges) as GoalName[]) {
    for (const format of formats) {
      const judgement = judges[goal](format);
      const claim = claims[format]?.[goal];
      if (judgement === undefined || (claim === undefined && !isQemu(format))) continue;
      rows.push({ goal, format, ...judgement, ...(claim && compared(judgement, claim)) });
    }
  }
  return rows;
}

function compared({ verdict, snapshots }: Judgement, claim: Verdict): Pick<GoalRow, 'claim' | 'agreement'> {
  const steps = grades.indexOf(verdict) - grades.indexOf(claim);
  if (snapshots !== undefined && steps < 0) return { claim };
  return { claim, agreement: steps === 0 ? 'agrees' : steps < 0 ? 'better' : 'worse' };
}

/** What a verdict has to be taken with: the N it was judged at. Empty for most. */
export function reservation({ snapshots }: Pick<GoalRow, 'snapshots'>): string {
  return snapshots === undefined ? '' : `at N=${snapshots}`;
}

/** Whether the mail says something else. */
export function contradicts({ agreement }: Pick<GoalRow, 'agreement'>): boolean {
  return agreement !== undefined && agreement !== 'agrees';
}

/** Of what was measured, the fact that the verdict rests on. */
export function decisive({ goal, measured, value }: Pick<GoalRow, 'goal' | 'measured' | 'value'>): string {
  const facts = measured.split('; ');
  const [first = ''] = facts;
  switch (goal) {
    case 'G2':
    case 'G3': {
      const worst = (fact: string): number =>
        Math.max(...[...fact.matchAll(/([\d.]+)×/g)].map(([, ratio]) => Number(ratio)));
      return facts.reduce((one, other) => (worst(other) > worst(one) ? other : one));
    }
    case 'G4':
      return measured;
    case 'G5':
    case 'G6':
      return facts.find((fact) => fact.startsWith(duration(value * 1000))) ?? first;
    default:
      return first;
  }
}

function ofCell<T extends { format: string; snapshots: number }>(
  rows: readonly T[],
  format: string,
  snapshots: number,
): T | undefined {
  return rows.find((row) => row.format === format && row.snapshots === snapshots);
}

function perOperation(row: RequestRow, key: 'calls' | 'bytes'): number {
  return row.calls[key] / Math.max(1, row.operations);
}

/** Calls and bytes that are tagged as refcounts, against everything else. */
function taggedShare({ calls, bytes, purposes: { refcount } }: Calls): number {
  const own = refcount.reads + refcount.writes + refcount.zeroes + refcount.discards;
  const ownBytes = refcount.readBytes + refcount.writtenBytes;
  return Math.max(own / Math.max(1, calls - own), ownBytes / Math.max(1, bytes - ownBytes));
}

function judgeBookkeeping(results: Measurements, format: string): Judgement | undefined {
  const rows = results.allocations.filter((row) => row.format === format);
  const asIs = rows.find(({ variant }) => variant === 'as is');
  if (asIs === undefined) return undefined;
  const without = rows.find(({ variant }) => variant === 'without bookkeeping');
  const share = Math.max(taggedShare(asIs.calls), without === undefined ? 0 : excess(asIs, without));
  const running = ofCell(results.sessions, format, 0)?.working.purposes.refcount;
  const refcounts = asIs.calls.purposes.refcount;
  const updates = refcounts.reads + refcounts.writes + (running?.reads ?? 0) + (running?.writes ?? 0);
  const { residentRefcountBytes } = asIs;
  const clean = updates === 0 && (residentRefcountBytes ?? 0) === 0;
  const verdict = worse(grade(share, scales.bookkeeping), clean ? 'ideal' : 'ok');
  const yardstick = results.allocations.find((row) => row.format === yardstickOf(format));
  const memory =
    residentRefcountBytes === undefined ? '' : `, ${size(residentRefcountBytes)} of refcounts in memory`;
  const parts = [`+${percent(share)} for bookkeeping`, `${updates} refcount I/Os${memory}`];
  if (yardstick !== undefined) {
    parts.push(`${compareCalls(asIs, yardstick)} raw's calls`);
  }
  if (without !== undefined) parts.push(`${compareCalls(asIs, without)} its own calls without bookkeeping`);
  return { value: share, measured: parts.join('; '), verdict };
}

function compareCalls(one: RequestRow, other: RequestRow): string {
  return times(perOperation(one, 'calls') / perOperation(other, 'calls'));
}

/** By how much the driver does more than itself without bookkeeping: the larger of calls and bytes. */
function excess(asIs: AllocateRow, without: AllocateRow): number {
  const ratio = (key: 'calls' | 'bytes'): number => perOperation(asIs, key) / perOperation(without, key);
  return Math.max(0, ratio('calls') - 1, ratio('bytes') - 1);
}

interface Phase {
  readonly name: string;
  readonly calls: number;
  readonly bytes: number;
  /** What is sure, and the median. */
  readonly time: Interval;
  readonly worst: number;
}

function phase(name: string, measured: RequestRow, baseline: RequestRow): Phase {
  const calls = perOperation(measured, 'calls') / perOperation(baseline, 'calls');
  const bytes = perOperation(measured, 'bytes') / perOperation(baseline, 'bytes');
  const time = pairedRatio(measured.roundMicros, baseline.roundMicros);
  return { name, calls, bytes, time, worst: Math.max(calls, bytes, time.low) };
}

function judgeSpeed(results: Measurements, format: string, snapshots: number): Judgement | undefined {
  const pass = (which: OverwriteRow['pass']): OverwriteRow[] =>
    results.overwrites.filter((row) => row.pass === which);
  const sets: [string, readonly RequestRow[]][] = [
    ['reads', results.reads],
    ['first pass', pass('first')],
    ['steady', pass('steady')],
  ];
  const phases: Phase[] = [];
  for (const [name, rows] of sets) {
    const measured = ofCell(rows, format, snapshots);
    const baseline = ofCell(rows, format, 0);
    if (snapshots > 0 && measured !== undefined && baseline !== undefined) {
      phases.push(phase(name, measured, baseline));
    }
  }
  if (phases.length === 0) return undefined;
  const value = Math.max(...phases.map(({ worst }) => worst));
  const measured = phases
    .map(
      ({ name, calls, bytes, time }) =>
        `${name} ${times(calls)} calls ${times(bytes)} bytes ${times(time.median)} time`,
    )
    .join('; ');
  return { value, measured, verdict: grade(value, scales.speed) };
}

/** Many are more than one: a budget that ended there leaves nothing to judge. */
function judgeMany(results: Measurements, format: string): Judgement | undefined {
  const many = manyFor(format, results);
  if (isQemu(format) && many <= 1) return undefined;
  const judgement = judgeSpeed(results, format, many);
  return judgement && { ...judgement, ...fewer(results, many) };
}

/** The number of snapshots, where the run has more of others. */
function fewer({ reads, sessions }: Measurements, many: number): Pick<Judgement, 'snapshots'> {
  const most = Math.max(0, ...[...reads, ...sessions].map(({ snapshots }) => snapshots));
  return many < most ? { snapshots: many } : {};
}

/** QEMU does not tell what it has in memory: its process alone decides. */
function judgeProcess(results: Measurements, format: string, many: number): Judgement | undefined {
  const growth = processGrowth(results.processMemory, format, many);
  if (many <= 1 || growth === undefined) return undefined;
  const measured = `process ${signed(growth)}; metadata: not told by QEMU`;
  const verdict = grade(growth, scales.growth);
  return { value: Math.max(0, growth), measured, verdict, ...fewer(results, many) };
}

function signed(bytes: number): string {
  return `${bytes < 0 ? '−' : '+'}${size(Math.abs(bytes))}`;
}

function judgeMemory(results: Measurements, format: string, many: number): Judgement | undefined {
  if (isQemu(format)) return judgeProcess(results, format, many);
  const at = (snapshots: number): SessionRow | undefined => ofCell(results.sessions, format, snapshots);
  const [before, after] = [at(0), at(many)];
  if (many === 0 || before === undefined || after === undefined) return undefined;
  const value = after.residentMetadataBytes / Math.max(1, before.residentMetadataBytes);
  const growth = processGrowth(results.processMemory, format, many);
  const verdict = grade(value, scales.memory);
  const metadata = `metadata ${size(before.residentMetadataBytes)} → ${size(after.residentMetadataBytes)}`;
  if (growth === undefined) return { value, measured: metadata, verdict };
  return {
    value,
    measured: `${metadata}; process ${signed(growth)}`,
    verdict: worse(verdict, grade(growth, scales.growth)),
  };
}

function processGrowth(rows: readonly ProcessMemoryRow[], format: string, many: number): number | undefined {
  const [before, after] = [ofCell(rows, format, 0), ofCell(rows, format, many)];
  if (before === undefined || after === undefined) return undefined;
  return median(after.rssBytes) - median(before.rssBytes);
}

/** The mail reckons with a disk of this size. Larger ones, which not every format has, are told and not judged here. */
const mailBytes: number = 2 ** 40;

function judgeSeconds(
  results: Measurements,
  format: string,
  operation: SnapshotRow['operation'],
): Judgement | undefined {
  const own = results.snapshotOperations.filter(
    (row) => row.format === format && row.operation === operation,
  );
  if (own.length === 0) return undefined;
  const judged = own.filter(({ imageBytes }) => imageBytes <= mailBytes);
  const value = Math.max(...judged.map(({ medianMs }) => medianMs)) / 1000;
  const measured = own
    .map(
      ({ medianMs, snapshots, imageBytes }) => `${duration(medianMs)} (N=${snapshots}, ${size(imageBytes)})`,
    )
    .join('; ');
  const ended = isQemu(format) ? fewer(results, manyFor(format, results)) : {};
  return { value, measured, verdict: grade(value, scales.seconds), ...ended };
}
