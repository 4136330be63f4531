import { CountingFolder, MemoryFolder, totalCounts } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { addCalls, interleaved, type Party, timed, toCalls } from '../src/measure.ts';
import { median } from '../src/statistics.ts';

describe('interleaved', () => {
  function party(name: string, rounds: number, log: string[], work = async (): Promise<void> => {}): Party {
    return {
      rounds,
      async batch(round) {
        log.push(`${name}${round}`);
        await work();
        return 10;
      },
    };
  }

  it('lets every party do one batch a round', async () => {
    const log: string[] = [];
    const times = await interleaved([party('a', 3, log), party('b', 3, log)], 1e9);
    expect(log.toSorted()).toEqual(['a0', 'a1', 'a2', 'b0', 'b1', 'b2']);
    expect(log.map((entry) => entry.slice(-1)).join('')).toBe('001122');
    expect(times.map(({ operations }) => operations)).toEqual([30, 30]);
    expect(times.map(({ roundMicros }) => roundMicros.length)).toEqual([3, 3]);
  });

  it('lets nobody always come after the same one', async () => {
    const log: string[] = [];
    const names = ['a', 'b', 'c', 'd'];
    await interleaved(
      names.map((name) => party(name, 40, log)),
      1e9,
    );
    const before = log.flatMap((entry, at) => (entry.startsWith('d') && at > 0 ? [log[at - 1]![0]] : []));
    expect(before).toEqual(expect.arrayContaining(['a', 'b', 'c']));
  });

  it('lets a party with fewer rounds stop early', async () => {
    const log: string[] = [];
    await interleaved([party('a', 1, log), party('b', 2, log)], 1e9);
    expect(log.toSorted()).toEqual(['a0', 'b0', 'b1']);
  });

  it('sends away who has used up the budget, after one round at least, and nobody else', async () => {
    const log: string[] = [];
    const slow = (): Promise<void> => new Promise((resume) => setTimeout(resume, 30));
    const times = await interleaved([party('slow', 4, log, slow), party('quick', 4, log)], 20);
    expect(log.filter((entry) => entry.startsWith('slow'))).toEqual(['slow0']);
    expect(log.filter((entry) => entry.startsWith('quick'))).toHaveLength(4);
    expect(times[0]).toMatchObject({ operations: 10 });
  });
});

describe('timed', () => {
  it('runs as often as asked, prepares before each, and gives the samples in order', async () => {
    const log: string[] = [];
    const { samplesMs, medianMs } = await timed('thing', {
      iterations: 4,
      budgetMs: 1e9,
      prepare: async () => void log.push('prepare'),
      run: async () => void log.push('run'),
    });
    expect(log).toEqual(Array.from({ length: 4 }, () => ['prepare', 'run']).flat());
    expect(samplesMs).toHaveLength(4);
    expect(samplesMs).toEqual(samplesMs.toSorted((a, b) => a - b));
    expect(medianMs).toBeCloseTo(median(samplesMs), 10);
  });

  it('does not count the preparation', async () => {
    const { samplesMs } = await timed('thing', {
      iterations: 3,
      budgetMs: 1e9,
      prepare: () => new Promise((resume) => setTimeout(resume, 40)),
      run: async () => {},
    });
    for (const sample of samplesMs) expect(sample).toBeLessThan(40);
  });

  it('finishes one iteration when the budget is used up by it, and begins no other', async () => {
    let runs = 0;
    const { samplesMs } = await timed('thing', {
      iterations: 5,
      budgetMs: 0,
      prepare: async () => {},
      run: async () => void runs++,
    });
    expect({ runs, samples: samplesMs.length }).toEqual({ runs: 1, samples: 1 });
  });

  it('fails when the operation fails', async () => {
    const failing = timed('thing', {
      iterations: 2,
      budgetMs: 1e9,
      prepare: async () => {},
      run: () => Promise.reject(new Error('no such luck')),
    });
    await expect(failing).rejects.toThrow('no such luck');
  });
});

describe('calls', () => {
  async function someCalls(): Promise<CountingFolder> {
    const folder = new CountingFolder(new MemoryFolder());
    const storage = await folder.create('a');
    await storage.write(0, new Uint8Array(100), 'data');
    await storage.write(0, new Uint8Array(10), 'refcount');
    await storage.read(0, new Uint8Array(7), 'mapping');
    await storage.zero(0, 50, 'data');
    await storage.discard(0, 50, 'snapshot');
    await storage.flush();
    return folder;
  }

  it('are reads, writes, zeroes, discards and flushes; bytes are what was read and written', async () => {
    const folder = await someCalls();
    const calls = toCalls(folder.reset());
    expect(calls).toMatchObject({ calls: 6, bytes: 117, flushes: 1, folderCalls: 1 });
    expect(calls.purposes.refcount).toMatchObject({ writes: 1, writtenBytes: 10, reads: 0 });
    expect(totalCounts(folder.counts).writes).toBe(0);
  });

  it('add up, purpose by purpose', async () => {
    const one = toCalls((await someCalls()).reset());
    const two = addCalls(one, one);
    expect(two).toMatchObject({ calls: 12, bytes: 234, flushes: 2, folderCalls: 2 });
    expect(two.purposes.data).toMatchObject({ writes: 2, writtenBytes: 200, zeroes: 2 });
    expect(one.calls).toBe(6);
  });
});
