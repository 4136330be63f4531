import type { BlockDriver, Capabilities, OptionValues } from '@cowlab/core';
import type { JudgeSpec } from './judge.ts';
import type { Lab } from './lab.ts';

/** What is put to the test. */
export interface ConformanceSubject {
  readonly driver: BlockDriver;
  /** Create options for every image of the run; small units make the run quick. */
  readonly options?: OptionValues;
  /** Drivers that may open backing files; the driver alone when left out. */
  readonly drivers?: readonly BlockDriver[];
  /** The driver's own structures have checksums: damage to them must be found, never believed. */
  readonly checksummed?: boolean;
  /** A foreign program that gives its opinion on the images a run leaves. */
  readonly judge?: JudgeSpec;
}

/** Where the files of a run lie. */
export type Place = 'memory' | 'files';

export const places: readonly Place[] = ['memory', 'files'];

/** One behaviour. `run` throws when the driver does not have it. */
export interface Scenario {
  readonly name: string;
  /** Whether drivers with these capabilities have to behave so; all of them when left out. */
  readonly when?: (capabilities: Capabilities) => boolean;
  /** The only place where it can be tried; both when left out. */
  readonly place?: Place;
  run(lab: Lab): Promise<void>;
}

export interface ScenarioGroup {
  readonly name: string;
  readonly scenarios: readonly Scenario[];
}

export const hasSnapshots = (capabilities: Capabilities): boolean => capabilities.snapshots !== 'none';
export const hasNoSnapshots = (capabilities: Capabilities): boolean => capabilities.snapshots === 'none';
