import { scaleBand, scaleLinear, scaleLog, scaleSymlog } from 'd3-scale';
import { line } from 'd3-shape';
import { counterpartOf } from '../rules.ts';
import type { Axis, BarChart, Chart, LineChart, Point, Series } from './charts.ts';

/*
 * Charts as SVG, written on the server: no script is needed to see them. Colours are classes, so that the page's style
 * decides for light and dark; formats differ in shape and dash too, for whoever sees colours differently. What can be
 * pointed at can be reached by keyboard, and says its values.
 */

const WIDTH = 640;
const HEIGHT = 340;
const MARGIN = { top: 16, right: 16, bottom: 48, left: 96 };
const PLOT = { right: WIDTH - MARGIN.right, bottom: HEIGHT - MARGIN.bottom };

type Scale = ((value: number) => number) & {
  readonly ticks: (count?: number) => number[];
  readonly domain: () => number[];
};

export function escapeText(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

export function svgOf(chart: Chart): string {
  const inner = chart.kind === 'lines' ? lineChart(chart) : barChart(chart);
  const name = `${chart.id}-title`;
  return (
    `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-labelledby="${name}" class="chart">` +
    `<title id="${name}">${escapeText(chart.title)}</title>${inner}</svg>`
  );
}

/** Two digits behind the point: enough for a screen, and the same text in every run. */
function place(value: number): string {
  return value.toFixed(2);
}

function extent(values: readonly number[]): [number, number] {
  return [Math.min(...values), Math.max(...values)];
}

function scaleFor({ scale }: Axis, values: readonly number[], range: [number, number]): Scale {
  const [low, high] = extent(values);
  if (scale === 'counts')
    return scaleSymlog()
      .constant(1)
      .domain([low, Math.max(high, low + 1)])
      .range(range);
  if (scale === 'linear')
    return scaleLinear()
      .domain([Math.min(0, low), high || 1])
      .range(range)
      .nice();
  if (scale === 'bytes')
    return scaleLinear()
      .domain([0, high || 1])
      .range(range);
  const positive = values.filter((value) => value > 0);
  const [least, most] = positive.length === 0 ? [1, 10] : extent(positive);
  return scaleLog()
    .base(scale === 'binary' || scale === 'sizes' ? 2 : 10)
    .domain([least, most === least ? least * 10 : most])
    .range(range)
    .nice();
}

const MOST_TICKS = 7;

/** Powers of two, or multiples of one, where bytes are shown. */
function byteTicks(scale: Axis['scale'], low: number, high: number): number[] {
  const ticks: number[] = [];
  if (scale === 'bytes') {
    const step = 2 ** Math.ceil(Math.log2(Math.max(1, high) / MOST_TICKS));
    for (let value = 0; value <= high; value += step) ticks.push(value);
    return ticks;
  }
  const [first, last] = [Math.ceil(Math.log2(low)), Math.floor(Math.log2(high))];
  const step = Math.max(1, Math.ceil((last - first + 1) / MOST_TICKS));
  for (let exponent = first; exponent <= last; exponent += step) ticks.push(2 ** exponent);
  return ticks;
}

/** Room that the words at a tick take. */
const TICK_WIDTH = 48;

/** The values themselves, the largest in any case, as far as there is room for each. */
function roomyTicks(scale: Scale, values: readonly number[]): number[] {
  return [...new Set(values)]
    .toSorted((a, b) => b - a)
    .reduce<number[]>((ticks, value) => {
      const next = ticks[0];
      return next === undefined || scale(next) - scale(value) >= TICK_WIDTH ? [value, ...ticks] : ticks;
    }, []);
}

/** At most about six, and on a logarithmic axis the powers of ten where there are several. */
function ticksOf(axis: Axis, scale: Scale, values: readonly number[]): number[] {
  if (axis.scale === 'counts') return [...new Set(values)].toSorted((a, b) => a - b);
  if (axis.scale === 'sizes') return roomyTicks(scale, values);
  if (axis.scale === 'bytes' || axis.scale === 'binary') {
    const [low, high] = scale.domain();
    return byteTicks(axis.scale, low ?? 0, high ?? 1);
  }
  const ticks = scale.ticks(5);
  const powers = ticks.filter((value) => Number.isInteger(Math.log10(value)));
  const chosen = axis.scale === 'log' && powers.length > 1 ? powers : ticks;
  const step = Math.ceil(chosen.length / MOST_TICKS);
  return chosen.filter((_, index) => index % step === 0);
}

function horizontalGrid(axis: Axis, scale: Scale, values: readonly number[]): string {
  return ticksOf(axis, scale, values)
    .map((value) => {
      const y = place(scale(value));
      return (
        `<line class="grid" x1="${MARGIN.left}" x2="${PLOT.right}" y1="${y}" y2="${y}"/>` +
        `<text class="tick" x="${MARGIN.left - 8}" y="${y}" dy="0.32em" text-anchor="end">${escapeText(axis.show(value))}</text>`
      );
    })
    .join('');
}

function axisLabel(text: string): string {
  return `<text class="label" x="${(MARGIN.left + PLOT.right) / 2}" y="${HEIGHT - 8}" text-anchor="middle">${escapeText(text)}</text>`;
}

function lineChart({ x, y, series }: LineChart): string {
  const points = series.flatMap((each) => each.points);
  const xs = points.map((point) => point.x);
  const ys = points.flatMap(({ y: value, low, high }) => [value, low ?? value, high ?? value]);
  const across = scaleFor(x, xs, [MARGIN.left + 12, PLOT.right - 12]);
  const up = scaleFor(y, ys, [PLOT.bottom, MARGIN.top]);
  const ticks = ticksOf(x, across, xs)
    .map(
      (value) =>
        `<text class="tick" x="${place(across(value))}" y="${PLOT.bottom + 18}" text-anchor="middle">${escapeText(x.show(value))}</text>`,
    )
    .join('');
  const looks = looksOf(series.map(({ format }) => format));
  const drawn = series.map((each, index) => seriesMarks(each, looks[index]!, { x, y }, across, up)).join('');
  return horizontalGrid(y, up, ys) + ticks + axisLabel(x.label) + drawn;
}

/** How a series is drawn: a colour with its shape and dash, filled or hollow. */
interface Look {
  readonly index: number;
  readonly hollow: boolean;
}

/** Ours by their order; an original as ours of it, hollow. One that is nobody's has a look of its own. */
function looksOf(formats: readonly string[]): Look[] {
  let own = 0;
  const looks = new Map<string, number>();
  for (const format of formats) {
    const counterpart = looks.get(counterpartOf(format) ?? '');
    looks.set(format, counterpart ?? own++);
  }
  return formats.map((format) => ({
    index: looks.get(format)!,
    hollow: counterpartOf(format) !== undefined,
  }));
}

function classesOf({ index, hollow }: Look): string {
  return `series s${index}${hollow ? ' original' : ''}`;
}

function seriesMarks(
  { format, points }: Series,
  look: Look,
  axes: { readonly x: Axis; readonly y: Axis },
  across: Scale,
  up: Scale,
): string {
  const path =
    line<Point>()
      .x((point) => Number(place(across(point.x))))
      .y((point) => Number(place(up(point.y))))([...points]) ?? '';
  const marks = points.map((point) => {
    const [cx, cy] = [across(point.x), up(point.y)];
    const interval =
      point.low === undefined || point.high === undefined
        ? ''
        : `<line class="interval" x1="${place(cx)}" x2="${place(cx)}" y1="${place(up(point.low))}" y2="${place(up(point.high))}"/>`;
    const words = `${format}, ${axes.x.label} ${axes.x.show(point.x)}: ${axes.y.show(point.y)}`;
    return (
      interval +
      `<g class="mark" tabindex="0" role="img" aria-label="${escapeText(words)}"><title>${escapeText(words)}</title>` +
      `${shapeOf(look.index, cx, cy)}</g>`
    );
  });
  return `<g class="${classesOf(look)}"><path class="line" d="${path}"/>${marks.join('')}</g>`;
}

/** A shape for each place in the legend: disc, square, triangle, diamond, and from the start again. */
function shapeOf(index: number, x: number, y: number): string {
  const corners = (points: readonly (readonly [number, number])[]): string =>
    `<polygon points="${points.map(([dx, dy]) => `${place(x + dx)},${place(y + dy)}`).join(' ')}"/>`;
  switch (index % 4) {
    case 0:
      return `<circle cx="${place(x)}" cy="${place(y)}" r="4.5"/>`;
    case 1:
      return `<rect x="${place(x - 4)}" y="${place(y - 4)}" width="8" height="8"/>`;
    case 2:
      return corners([
        [0, -5.5],
        [5, 4],
        [-5, 4],
      ]);
    default:
      return corners([
        [0, -6],
        [5, 0],
        [0, 6],
        [-5, 0],
      ]);
  }
}

/** Of a label's letter on a narrow screen, where text is larger than the rest of the drawing. */
const LETTER = 9.2;

/** Lying bars: labels are words, and have room beside them. */
function barChart({ y, bars }: BarChart): string {
  const longest = Math.max(0, ...bars.map(({ label }) => label.length));
  const left = Math.max(190, 24 + longest * LETTER);
  const totals = bars.map(({ parts }) => parts.reduce((sum, { value }) => sum + value, 0));
  const names = [...new Set(bars.flatMap(({ parts }) => parts.map(({ name }) => name)))];
  const band = scaleBand<number>()
    .domain(bars.map((_, index) => index))
    .range([MARGIN.top, PLOT.bottom])
    .padding(0.25);
  // Parts of a sum can be seen on a linear axis only.
  const axis: Axis = names.length > 1 ? { ...y, scale: 'linear' } : y;
  // On a logarithmic axis the shortest bar shall still be one.
  const shortest = Math.min(...totals.filter((total) => total > 0)) / 4;
  const ends = axis.scale === 'linear' || !Number.isFinite(shortest) ? totals : [...totals, shortest];
  const along = scaleFor(axis, ends, [left, PLOT.right]);
  const grid = ticksOf(axis, along, totals)
    .map((value) => {
      const x = place(along(value));
      return (
        `<line class="grid" x1="${x}" x2="${x}" y1="${MARGIN.top}" y2="${PLOT.bottom}"/>` +
        `<text class="tick" x="${x}" y="${PLOT.bottom + 18}" text-anchor="middle">${escapeText(axis.show(value))}</text>`
      );
    })
    .join('');
  const formats = [...new Set(bars.map(({ format }) => format))];
  const drawn = bars.map(({ label, format, parts }, index) => {
    const top = band(index) ?? 0;
    let done = 0;
    const pieces = parts.map(({ name, value }) => {
      const from = done === 0 ? left : along(done);
      done += value;
      const to = value > 0 ? Math.max(from + 1, along(done)) : from;
      const words = `${label}, ${name}: ${axis.show(value)}`;
      // Parts have colours of their own; bars of one part have their format's.
      const hue = names.length > 1 ? names.indexOf(name) : formats.indexOf(format);
      return (
        `<rect class="part p${hue % 13}" tabindex="0" role="img" aria-label="${escapeText(words)}"` +
        ` x="${place(from)}" y="${place(top)}" width="${place(Math.max(0, to - from))}" height="${place(band.bandwidth())}">` +
        `<title>${escapeText(words)}</title></rect>`
      );
    });
    const middle = place(top + band.bandwidth() / 2);
    return `<text class="tick" x="${left - 8}" y="${middle}" dy="0.32em" text-anchor="end">${escapeText(label)}</text>${pieces.join('')}`;
  });
  return grid + axisLabel(axis.label) + drawn.join('');
}

/** What belongs to which format, or which part of a bar. */
export function legendOf(chart: Chart): string {
  if (chart.kind === 'lines') {
    const looks = looksOf(chart.series.map(({ format }) => format));
    const keys = chart.series.map(
      ({ format }, index) =>
        `<span class="key"><svg viewBox="0 0 16 16" aria-hidden="true"><g class="${classesOf(looks[index]!)}">${shapeOf(looks[index]!.index, 8, 8)}</g></svg>${escapeText(format)}</span>`,
    );
    return `<p class="legend">${keys.join(' ')}</p>`;
  }
  const names = [...new Set(chart.bars.flatMap(({ parts }) => parts.map(({ name }) => name)))];
  if (names.length < 2) return '';
  const keys = names.map(
    (name, index) =>
      `<span class="key"><svg viewBox="0 0 16 16" aria-hidden="true"><rect class="part p${index % 13}" x="2" y="2" width="12" height="12"/></svg>${escapeText(name)}</span>`,
  );
  return `<p class="legend">${keys.join(' ')}</p>`;
}
