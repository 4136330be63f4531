import { describe, expect, it } from 'vitest';
import { htmlReport } from '../src/publish/html.ts';
import { markdownReport } from '../src/publish/markdown.ts';
import { escapeText } from '../src/publish/svg.ts';
import { judge } from '../src/rules.ts';
import type { GoalName, GoalRow, Results, TrendRow } from '../src/schema.ts';
import { judgeTrends } from '../src/targets/trends.ts';
import { trendCells, trendSummary } from '../src/targets/wording.ts';
import { resultsWithQemu } from './samples.ts';

/* What becomes of QEMU's rows: verdicts, trends, and what the reports say of them. */

function changed(change: (results: Results) => void): Results {
  const results = resultsWithQemu();
  change(results);
  return results;
}

function goalOf(results: Results, goal: GoalName, format: string): GoalRow | undefined {
  return judge(results, results.formats).find((row) => row.goal === goal && row.format === format);
}

function slowReads(results: Results, format: string, snapshots: number, factor: number): void {
  for (const row of results.reads) {
    if (row.format === format && row.snapshots === snapshots)
      row.roundMicros = row.roundMicros.map((micros) => micros * factor);
  }
}

describe('a target whose N ended before the run’s', () => {
  it('says at which N it was judged, and decides nothing about a claim that it is better than', () => {
    const row = goalOf(resultsWithQemu(), 'G3', 'qemu-vmdk-chain')!;
    expect(row).toMatchObject({ snapshots: 100, claim: 'very poor' });
    expect(row.agreement).toBeUndefined();
  });

  it.each(['G3', 'G4', 'G5', 'G6'] as const)('says so on %s', (goal) => {
    for (const format of ['qemu-qcow2', 'qemu-qcow2-chain', 'qemu-vmdk-chain'])
      expect(goalOf(resultsWithQemu(), goal, format)).toMatchObject({ snapshots: 100 });
  });

  it('decides where it is as bad as the claim already', () => {
    const results = changed((each) => slowReads(each, 'qemu-vmdk-chain', 100, 90));
    expect(goalOf(results, 'G3', 'qemu-vmdk-chain')).toMatchObject({
      verdict: 'very poor',
      snapshots: 100,
      agreement: 'agrees',
    });
  });

  it('has no verdict on many snapshots when it got to one', () => {
    const results = changed((each) => {
      for (const name of ['reads', 'overwrites', 'processMemory'] as const) {
        const rows: { format: string; snapshots: number }[] = each[name];
        const kept = rows.filter(({ format, snapshots }) => format !== 'qemu-qcow2-chain' || snapshots <= 1);
        Object.assign(each, { [name]: kept });
      }
    });
    expect(goalOf(results, 'G2', 'qemu-qcow2-chain')).toBeDefined();
    expect(goalOf(results, 'G3', 'qemu-qcow2-chain')).toBeUndefined();
    expect(goalOf(results, 'G4', 'qemu-qcow2-chain')).toBeUndefined();
  });

  it('changes nothing for ours', () => {
    expect(goalOf(resultsWithQemu(), 'G3', 'vmdk')).not.toHaveProperty('snapshots');
  });
});

describe('memory of QEMU', () => {
  it.each<[number, GoalRow['verdict']]>([
    [4, 'ideal'],
    [20, 'ok'],
    [200, 'very poor'],
  ])('is judged by its process alone: one that grows by %d MiB is %s', (mebibytes, verdict) => {
    const results = changed(({ processMemory }) => {
      const row = processMemory.find((each) => each.format === 'qemu-qcow2' && each.snapshots === 100)!;
      row.rssBytes = [(8 + mebibytes) * 2 ** 20];
    });
    expect(goalOf(results, 'G4', 'qemu-qcow2')).toMatchObject({
      verdict,
      measured: expect.stringContaining('metadata: not told by QEMU'),
    });
  });
});

it('QEMU is measured against raw in QEMU, ours against our raw', () => {
  const results = changed(({ allocations }) => {
    for (const row of allocations) if (row.format === 'qemu-raw') row.operations *= 2;
  });
  expect(goalOf(results, 'G1', 'qemu-qcow2')!.measured).toContain("2.00× raw's calls");
  expect(goalOf(results, 'G1', 'qcow2')!.measured).toContain("1.00× raw's calls");
});

describe('a trend', () => {
  const trend = (results: Results, quantity: string): TrendRow =>
    judgeTrends(results).find((row) => row.original === 'qemu-vmdk-chain' && row.quantity === quantity)!;

  it.each<[string, number, number, TrendRow['agreement']]>([
    ['both stay', 1, 1, 'agrees'],
    ['ours alone rises', 20, 1, 'worse'],
    ['QEMU’s alone rises', 1, 20, 'better'],
    ['both rise beyond the scale', 20, 90, 'agrees'],
    ['both rise a little, on two sides of a limit', 1.2, 1.6, 'agrees'],
  ])('when %s says so', (_, ours, originals, agreement) => {
    const results = changed((each) => {
      each.reads = each.reads.filter(({ format }) => format === 'vmdk' || format === 'qemu-vmdk-chain');
      for (const row of each.reads) row.roundMicros = [1, 1, 1];
      for (const row of each.reads) if (row.format === 'vmdk' && row.snapshots === 1000) row.snapshots = 100;
      slowReads(each, 'vmdk', 100, ours);
      slowReads(each, 'qemu-vmdk-chain', 100, originals);
    });
    const row = trend(results, 'random reads, time');
    expect(row).toMatchObject({ fromSnapshots: 0, snapshots: 100, byLaw: false, agreement });
    expect(row.ours).toBeCloseTo(ours, 9);
    expect(row.originals).toBeCloseTo(originals, 9);
  });

  it.each<[string, number[], TrendRow['agreement']]>([
    ['alike in every round', [20, 20, 20, 20, 20], 'worse'],
    ['anything between nothing and much', [1, 2, 20, 40, 50], 'unsure'],
  ])('with times of ours that are %s knows how sure it is', (_, rounds, agreement) => {
    const results = changed((each) => {
      for (const row of each.reads) {
        if (row.format === 'qemu-vmdk-chain') row.roundMicros = [1, 1, 1, 1, 1];
        if (row.format === 'vmdk') row.roundMicros = row.snapshots === 1000 ? rounds : [1, 1, 1, 1, 1];
        if (row.format === 'vmdk' && row.snapshots === 1000) row.snapshots = 100;
      }
    });
    expect(trend(results, 'random reads, time')).toMatchObject({ agreement });
  });

  it('takes ours by its law where there is no image of that N', () => {
    const results = changed((each) => {
      for (const row of each.reads) {
        if (row.format === 'vmdk') row.roundMicros = [1 + row.snapshots / 10];
      }
    });
    const row = trend(results, 'random reads, time');
    expect(row).toMatchObject({ snapshots: 100, byLaw: true, oursOrder: 'O(n)' });
    expect(row.ours).toBeCloseTo(11, 1);
    expect(trendCells(row)).toContain('≈ 11.0×');
  });

  it('of deletes begins at one snapshot', () => {
    expect(trend(resultsWithQemu(), 'delete a snapshot, time')).toMatchObject({ fromSnapshots: 1 });
  });

  it('is left out where a number is nothing, which has no ratio', () => {
    const results = changed(({ opens }) => {
      for (const row of opens) if (row.format === 'qemu-vmdk-chain') row.milliseconds = [0];
    });
    expect(trend(results, 'open and first read, time')).toBeUndefined();
  });
});

describe('the reports', () => {
  const results = changed((each) => {
    each.goals = judge(each, each.formats);
  });
  const { trends } = results.qemu!;

  it('have every trend, and how many are alike', () => {
    const [page, text] = [htmlReport(results), markdownReport(results)];
    expect(page).toContain(escapeText(trendSummary(trends)));
    expect(text).toContain(trendSummary(trends));
    for (const row of trends) {
      expect(text).toContain(`| ${trendCells(row).join(' | ')} |`);
      for (const cell of trendCells(row)) expect(page).toContain(escapeText(cell));
    }
  });

  it('say where the mail is silent, and at which N QEMU was judged', () => {
    const page = htmlReport(results);
    expect(page).toContain('at N=100; the mail is silent');
    expect(page).toContain('at N=100; the mail says “very poor”');
    expect(markdownReport(results)).toMatch(/\| G3 .*\(at N=100\)/);
  });

  it('draw numbers only, also where a time is nothing', () => {
    const nothing = structuredClone(results);
    for (const row of nothing.snapshotOperations) if (row.format.startsWith('qemu-')) row.medianMs = 0;
    expect(/NaN|Infinity|undefined/.test(htmlReport(nothing))).toBe(false);
  });
});
