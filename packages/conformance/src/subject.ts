import type { BlockDriver, Capabilities, FoundStructure, OptionValues } from '@cowlab/core';
import type { JudgeSpec } from './judge.ts';
import type { Lab } from './lab.ts';

/** What is put to the test. */
export interface ConformanceSubject {
  readonly driver: BlockDriver;
  /** Create options for every image of the run; small units make the run quick. */
  readonly options?: OptionValues;
  /** Drivers that may open backing files; the driver alone when left out. */
  readonly drivers?: readonly BlockDriver[];
  /** Images can lie on a device: where they end their metadata say, and not the length of their file. */
  readonly devices?: boolean;
  /** The driver's own structures have checksums: damage to them must be found, never believed. */
  readonly checksummed?: boolean;
  /**
   * What a write to bytes that a snapshot shares copies, so that all of it may differ then, and what is compressed as one:
   * where that is more than a unit.
   */
  readonly copyBytes?: number;
  /** A foreign program that gives its opinion on the images a run leaves. */
  readonly judge?: JudgeSpec;
  /** Where the structures of an image's file are, so that damage can be aimed at them. */
  readonly structures?: (file: string, bytes: Uint8Array) => readonly FoundStructure[];
  /** Valid images that others made, to be damaged as well. */
  readonly samples?: readonly Sample[];
  /** Fields named by `ERR_CORRUPT` that `check` does not look at, so that only a read meets them. */
  readonly unchecked?: readonly string[];
}

/** A valid image from elsewhere. */
export interface Sample {
  readonly name: string;
  /** Its files; the image itself is `disk.img`. */
  readonly files: () => ReadonlyMap<string, Uint8Array>;
}

/** Where the files of a run lie; `devices` are in memory, too, and have a given length. */
export type Place = 'memory' | 'files' | 'devices';

/** Where the whole suite is run. */
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
export const compresses = ({ compress }: Capabilities): boolean => compress === 'units';
export const hasNoSnapshots = (capabilities: Capabilities): boolean => capabilities.snapshots === 'none';
