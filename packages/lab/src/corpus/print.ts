import type { CorpusReport, Failure, KindCounts } from './run.ts';

const titles = ['kind', 'made', 'read', 'snapshots read', 'written', 'refused'];

function cellsOf(kind: string, { made, read, snapshotsRead, written, refused }: KindCounts): string[] {
  return [kind, ...[made, read, snapshotsRead, written, refused].map(String)];
}

function sumOf(report: CorpusReport): KindCounts {
  const sum: KindCounts = { made: 0, read: 0, written: 0, snapshotsRead: 0, refused: 0 };
  for (const counts of report.kinds.values()) {
    for (const name of Object.keys(sum) as (keyof KindCounts)[]) sum[name] += counts[name];
  }
  return sum;
}

/** The command that makes the image of a seed again. */
function replay({ recipe }: Failure): string {
  return `npm run corpus -- --seed ${recipe.seed} --count 1`;
}

export function describeFailure(failure: Failure): string {
  const { recipe, found, message, folder } = failure;
  const place = folder === undefined ? [] : [`  kept in ${folder}`];
  return [
    `seed ${recipe.seed}, ${recipe.kind}: ${found}: ${message}`,
    ...place,
    `  ${JSON.stringify(recipe)}`,
    `  ${replay(failure)}`,
  ].join('\n');
}

export function corpusTable(report: CorpusReport): string {
  const rows = [
    titles,
    ...[...report.kinds]
      .toSorted(([a], [b]) => a.localeCompare(b))
      .map(([kind, counts]) => cellsOf(kind, counts)),
    cellsOf('all', sumOf(report)),
  ];
  const widths = titles.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const table = rows.map((row) =>
    row.map((cell, at) => (at === 0 ? cell.padEnd(widths[at]!) : cell.padStart(widths[at]!))).join('  '),
  );
  const found = (what: Failure['found']): number =>
    report.failures.filter((each) => each.found === what).length;
  const mib = Math.round(report.bytesCompared / 2 ** 20);
  const refusals = [...report.refusals].map(([what, times]) => `  ${times} × ${what}`);
  return [
    ...table,
    '',
    `${mib} MiB compared when read; ${found('difference')} differences, ${found('check')} check errors, ` +
      `${found('error')} other errors, ${found('making')} not made`,
    ...(refusals.length > 0 ? ['refused:', ...refusals.toSorted()] : []),
  ].join('\n');
}
