import { array, assert as assertProperty, double, integer, property } from 'fast-check';
import { median as oracleMedian, quantileSorted, wilcoxonRankSum } from 'simple-statistics';
import { describe, expect, it } from 'vitest';
import {
  fitGrowth,
  type GrowthOrder,
  mannWhitney,
  median,
  medianInterval,
  pairedRatio,
  quantile,
} from '../src/statistics.ts';
import { seededRandom } from '../src/workload.ts';

const samples = array(double({ min: 0.001, max: 1e6, noNaN: true }), { minLength: 1, maxLength: 40 });
const ranks = array(integer({ min: 0, max: 12 }), { minLength: 2, maxLength: 12 });

describe('median and quantiles', () => {
  it('are those of another library', () => {
    assertProperty(
      property(samples, (values) => {
        expect(median(values)).toBeCloseTo(oracleMedian(values), 6);
        const sorted = values.toSorted((a, b) => a - b);
        expect(quantile(values, 0)).toBe(quantileSorted(sorted, 0));
        expect(quantile(values, 1)).toBe(quantileSorted(sorted, 1));
      }),
    );
  });

  it('leave their samples as they are', () => {
    const values = [3, 1, 2];
    expect(median(values)).toBe(2);
    expect(values).toEqual([3, 1, 2]);
  });

  it('lie in the order of their shares', () => {
    assertProperty(
      property(samples, (values) => {
        const points = [0, 0.1, 0.5, 0.9, 1].map((share) => quantile(values, share));
        expect(points).toEqual(points.toSorted((a, b) => a - b));
      }),
    );
  });
});

describe('the interval of a median', () => {
  it('has the median in it, and is the same every time', () => {
    assertProperty(
      property(samples, (values) => {
        const interval = medianInterval(values);
        expect(interval.low).toBeLessThanOrEqual(interval.median);
        expect(interval.high).toBeGreaterThanOrEqual(interval.median);
        expect(medianInterval(values)).toEqual(interval);
      }),
    );
  });

  it('holds the true median in about 95 of 100 draws', () => {
    const random = seededRandom(5);
    let held = 0;
    const draws = 200;
    for (let draw = 0; draw < draws; draw += 1) {
      const { low, high } = medianInterval(Array.from({ length: 25 }, () => random() ** 2));
      if (low <= 0.25 && 0.25 <= high) held += 1;
    }
    expect(held / draws).toBeGreaterThan(0.88);
    expect(held / draws).toBeLessThan(1);
  });
});

describe('a paired ratio', () => {
  const random = seededRandom(1);
  const noise = Array.from({ length: 40 }, () => 1 + random());

  it('finds rounds that take twice as long twice as slow, whatever the machine did meanwhile', () => {
    const {
      low,
      median: middle,
      high,
    } = pairedRatio(
      noise.map((value) => value * 2),
      noise,
    );
    for (const value of [low, middle, high]) expect(value).toBeCloseTo(2, 10);
  });

  it('is not sure of a difference that is noise', () => {
    const other = Array.from({ length: 40 }, () => 1 + random());
    expect(pairedRatio(other, noise).low).toBeLessThan(1.1);
    expect(pairedRatio(noise, other).low).toBeLessThan(1.1);
  });

  it('is sure of one that is not', () => {
    const slower = noise.map((value) => value * (1 + 2 * random()));
    expect(pairedRatio(slower, noise).low).toBeGreaterThan(1);
  });

  it.each([
    [
      [2, 2],
      [1, 1, 50, 50],
    ],
    [
      [2, 2, 50, 50],
      [1, 1],
    ],
  ])('pairs the rounds that both took part in: %j, %j', (measured, baseline) => {
    expect(pairedRatio(measured, baseline)).toEqual({ low: 2, median: 2, high: 2 });
  });
});

/** The chance of a difference at least so large, by trying every way to deal the values out. */
function exactChance(one: readonly number[], other: readonly number[]): number {
  const all = [...one, ...other];
  const middle = (one.length * other.length) / 2;
  const seen = Math.abs(mannWhitney(one, other).u - middle);
  let [asFar, ways] = [0, 0];
  const deal = (next: number, left: number[], right: number[]): void => {
    if (next === all.length) {
      ways += 1;
      if (Math.abs(mannWhitney(left, right).u - middle) >= seen) asFar += 1;
      return;
    }
    if (left.length < one.length) deal(next + 1, [...left, all[next]!], right);
    if (right.length < other.length) deal(next + 1, left, [...right, all[next]!]);
  };
  deal(0, [], []);
  return asFar / ways;
}

describe('the Mann–Whitney test', () => {
  it('counts as the rank sum of another library does', () => {
    assertProperty(
      property(ranks, ranks, (one, other) => {
        const rankSum = wilcoxonRankSum([...one], [...other]);
        expect(mannWhitney(one, other).u).toBeCloseTo(rankSum - (one.length * (one.length + 1)) / 2, 9);
      }),
    );
  });

  it('has the same chance from both sides, and opposite effects', () => {
    assertProperty(
      property(ranks, ranks, (one, other) => {
        const [there, back] = [mannWhitney(one, other), mannWhitney(other, one)];
        expect(there.p).toBeCloseTo(back.p, 9);
        expect(there.effect).toBeCloseTo(-back.effect, 9);
        expect(Math.abs(there.effect)).toBeLessThanOrEqual(1);
      }),
    );
  });

  it.each([
    [
      [1, 2, 3, 4, 5, 6],
      [7, 8, 9, 10, 11, 12],
    ],
    [
      [1, 3, 5, 7, 9, 11],
      [2, 4, 6, 8, 10, 12],
    ],
    [
      [1, 2, 2, 3, 9],
      [2, 4, 5, 6, 7, 8],
    ],
  ])('comes close to the exact chance: %j against %j', (one, other) => {
    expect(Math.abs(mannWhitney(one, other).p - exactChance(one, other))).toBeLessThan(0.02);
  });

  it('finds nothing where there is nothing', () => {
    expect(mannWhitney([3, 3, 3], [3, 3])).toEqual({ u: 3, p: 1, effect: 0 });
    expect(mannWhitney([], [1])).toEqual({ u: 0, p: 1, effect: 0 });
  });
});

describe('growth', () => {
  const counts = [0, 1, 10, 100, 1000];
  const shapes: [GrowthOrder, (n: number) => number][] = [
    ['O(1)', () => 3],
    ['O(log n)', (n) => 1 + 2 * Math.log2(n + 1)],
    ['O(n)', (n) => 2 + 0.5 * n],
    ['O(n log n)', (n) => 1 + 0.1 * n * Math.log2(n + 1)],
    ['O(n²)', (n) => 5 + 0.01 * n * n],
  ];

  it.each(shapes)('%s is told from exact values', (order, value) => {
    const fit = fitGrowth(counts.map((n) => ({ n, value: value(n) })));
    expect(fit.order).toBe(order);
    expect(fit.error).toBeLessThan(1e-6);
    expect(fit.points).toBe(counts.length);
  });

  it.each(shapes.filter(([order]) => order !== 'O(n log n)'))(
    '%s is told from values with some noise',
    (order, value) => {
      const random = seededRandom(11);
      const noisy = counts.flatMap((n) =>
        Array.from({ length: 5 }, () => ({ n, value: value(n) * (0.95 + 0.1 * random()) })),
      );
      expect(fitGrowth(noisy).order).toBe(order);
    },
  );

  it('calls what falls a constant', () => {
    expect(fitGrowth(counts.map((n) => ({ n, value: 100 - n / 20 }))).order).toBe('O(1)');
  });

  it('tells no more laws apart than it has places', () => {
    expect(fitGrowth([{ n: 0, value: 1 }]).order).toBe('O(1)');
    expect(fitGrowth([0, 1000].map((n) => ({ n, value: 1 + n * n }))).order).toBe('O(1)');
  });
});
