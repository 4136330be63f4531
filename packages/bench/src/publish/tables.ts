import type { Chart } from './charts.ts';

/* The tables behind the charts: the same numbers, for whoever does not look at pictures, and for other programs. */

export interface Table {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

export function tableOf(chart: Chart): Table {
  if (chart.kind === 'bars') {
    return {
      head: ['', 'part', chart.y.label],
      rows: chart.bars.flatMap(({ label, parts }) =>
        parts.map(({ name, value }) => [label, name, chart.y.show(value)]),
      ),
    };
  }
  const { x, y, series } = chart;
  const hasLaws = series.some(({ law }) => law !== undefined);
  const places = [...new Set(series.flatMap(({ points }) => points.map((point) => point.x)))].toSorted(
    (a, b) => a - b,
  );
  return {
    head: ['format', ...places.map((place) => x.show(place)), ...(hasLaws ? ['grows as'] : [])],
    rows: series.map(({ format, points, law }) => [
      format,
      ...places.map((place) => {
        const point = points.find((each) => each.x === place);
        return point === undefined ? '–' : y.show(point.y);
      }),
      ...(hasLaws ? [law ?? '–'] : []),
    ]),
  };
}

/** One line for each number of each chart, unrounded. */
export function csvOf(charts: readonly Chart[]): string {
  const lines = [['chart', 'format', 'label', 'x', 'y', 'low', 'high']];
  const exact = (value: number | undefined): string => (value === undefined ? '' : String(value));
  for (const chart of charts) {
    if (chart.kind === 'bars') {
      for (const { label, format, parts } of chart.bars) {
        for (const { name, value } of parts) {
          lines.push([chart.id, format, `${label}: ${name}`, '', exact(value), '', '']);
        }
      }
    } else {
      for (const { format, points } of chart.series) {
        for (const { x, y, low, high } of points) {
          lines.push([chart.id, format, '', exact(x), exact(y), exact(low), exact(high)]);
        }
      }
    }
  }
  return lines.map((fields) => `${fields.map(quoted).join(',')}\n`).join('');
}

/** As RFC 4180 has it. */
function quoted(field: string): string {
  return /[",\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field;
}
