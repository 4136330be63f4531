/*
 * The sizes of a run of the NBD benchmark; a measurement has no numbers of its own. A batch of fio has to last some
 * hundreds of milliseconds to be worth a ratio, since fio looks at the clock now and then only.
 */

export type NbdProfileName = 'quick' | 'standard';

export interface NbdProfile {
  readonly name: string;
  /** Guest bytes of the image that is served, and of the one with data that is converted; every byte written. */
  readonly imageBytes: number;
  readonly depths: readonly number[];
  readonly randomBytes: number;
  readonly sequentialBytes: number;
  /** How often every server has every batch. */
  readonly rounds: number;
  readonly batchMs: number;
  /** Each is converted to each other one. */
  readonly converted: readonly string[];
  /** Guest bytes of the image without data that is converted. */
  readonly emptyBytes: number;
  /** How often every conversion is done. */
  readonly conversions: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

const common = {
  depths: [1, 32],
  randomBytes: 4 * KIB,
  sequentialBytes: MIB,
  converted: ['raw', 'qcow2', 'fvd', 'vmdk'],
};

export const nbdProfiles: Readonly<Record<NbdProfileName, NbdProfile>> = {
  quick: {
    name: 'quick',
    ...common,
    imageBytes: 256 * MIB,
    rounds: 3,
    batchMs: 200,
    emptyBytes: 100 * GIB,
    conversions: 1,
  },
  standard: {
    name: 'standard',
    ...common,
    imageBytes: GIB,
    rounds: 4,
    batchMs: 300,
    emptyBytes: 100 * GIB,
    conversions: 3,
  },
};
