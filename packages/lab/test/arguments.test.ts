import { describe, expect, it } from 'vitest';
import { readArguments, UsageError } from '../src/arguments.ts';
import { cutShares } from '../src/shares.ts';
import { driverNames } from '../src/subjects.ts';

describe('the arguments of the lab', () => {
  it.each([
    ['90s', 90],
    ['1.5m', 90],
    ['1h', 3600],
  ])('take %s for a time', (text, seconds) => {
    expect(readArguments(['--time', text])?.seconds).toBe(seconds);
  });

  it.each([
    [['--time', '90']],
    [['--seed', '-1']],
    [['--jobs', '0']],
    [['--driver', 'fvd,qed']],
    [['--part', 'luck']],
    [['--workload', 'nothing']],
    [['--state', '1.0.all']],
    [['--unknown']],
  ])('are refused when they are %j', (args) => {
    expect(() => readArguments(args)).toThrow(UsageError);
  });

  it('cut the time into as many shares of every driver as there are jobs', () => {
    const request = readArguments(['--time', '60s', '--jobs', '3', '--seed', '7', '--part', 'crash']);
    const shares = cutShares(request!);
    expect(shares.map(({ driver, seed }) => `${driver} ${seed}`)).toEqual(
      driverNames.flatMap((driver) => [7, 8, 9].map((seed) => `${driver} ${seed}`)),
    );
    expect(shares.reduce((sum, { seconds }) => sum + seconds, 0)).toBeCloseTo(3 * 60);
  });

  it('leave out what a driver does not do', () => {
    const request = readArguments(['--workload', 'shrink', '--jobs', '1']);
    const drivers = cutShares(request!).map(({ driver }) => driver);
    expect(drivers).toEqual(['fvd', 'qcow2', 'qcow2-data', 'qcow2-raw']);
  });
});
