/*
 * A block device that exists in arithmetic only: what a request takes is computed, and a virtual clock moves by it. Two
 * runs of the same requests take the same time to the last bit, on any machine; so formats can be compared on devices
 * that nobody has at hand. Figures are data sheet values of a usual device of each kind, rounded.
 *
 *   read    waits for a channel, then for the medium: the way there, then the bytes
 *   write   goes into the device's cache, at the speed of the link; a full cache is emptied first
 *   flush   what is in the cache goes to the medium: sorted, neighbours together, on all channels at once
 *
 * A device without a cache writes at once, and its flush is a message to and fro.
 *
 * Who has several requests under way at once gives each a time of its own: `at` runs one from a moment on, and
 * channels that others have taken are taken.
 */

export interface DeviceModel {
  readonly name: string;
  /** Requests that the medium works on at once. */
  readonly channels: number;
  /** Microseconds for a request to the medium, before its bytes. */
  readonly readMicros: number;
  readonly writeMicros: number;
  /** Bytes that one channel moves in a microsecond, and that the link does. */
  readonly channelBytesPerMicro: number;
  readonly linkBytesPerMicro: number;
  /** Microseconds for a command that moves no bytes, and for the part of one that the medium has no share in. */
  readonly commandMicros: number;
  /** Written bytes that wait in the device for a flush; 0: every write goes to the medium. */
  readonly cacheBytes: number;
  /** Microseconds that a flush takes beside what it writes. */
  readonly flushMicros: number;
  /** A medium that turns under a head. */
  readonly head?: HeadModel;
}

/** How long a head is under way. The next byte after the last request is under it already. */
export interface HeadModel {
  readonly shortestSeekMicros: number;
  readonly longestSeekMicros: number;
  /** From the first byte to the last; what lies further takes no longer. */
  readonly spanBytes: number;
  /** Half a turn: what has to pass, on the average, before the bytes come by. */
  readonly halfTurnMicros: number;
}

const MIB = 1024 * 1024;
const TIB: number = MIB * MIB;

export const deviceModels: Readonly<Record<'hdd' | 'ssd' | 'nvme' | 'network', DeviceModel>> = {
  hdd: {
    name: 'hard disk, 7,200 turns a minute',
    channels: 1,
    readMicros: 0,
    writeMicros: 0,
    channelBytesPerMicro: 180,
    linkBytesPerMicro: 550,
    commandMicros: 100,
    cacheBytes: 64 * MIB,
    flushMicros: 0,
    head: {
      shortestSeekMicros: 600,
      longestSeekMicros: 16_000,
      spanBytes: 4 * TIB,
      halfTurnMicros: 4167,
    },
  },
  ssd: {
    name: 'SATA SSD',
    channels: 8,
    readMicros: 80,
    writeMicros: 60,
    channelBytesPerMicro: 250,
    linkBytesPerMicro: 550,
    commandMicros: 20,
    cacheBytes: 16 * MIB,
    flushMicros: 400,
  },
  nvme: {
    name: 'NVMe SSD',
    channels: 32,
    readMicros: 65,
    writeMicros: 20,
    channelBytesPerMicro: 800,
    linkBytesPerMicro: 3500,
    commandMicros: 8,
    cacheBytes: 16 * MIB,
    flushMicros: 80,
  },
  network: {
    name: 'network block storage',
    channels: 64,
    readMicros: 400,
    writeMicros: 600,
    channelBytesPerMicro: 250,
    linkBytesPerMicro: 1250,
    commandMicros: 100,
    cacheBytes: 0,
    flushMicros: 500,
  },
};

/** A run of bytes that the cache holds. */
interface Written {
  address: number;
  length: number;
}

export class SimulatedDevice {
  readonly model: DeviceModel;
  #now = 0;
  readonly #free: Float64Array;
  #head = 0;
  #cache: Written[] = [];
  #cachedBytes = 0;

  constructor(model: DeviceModel) {
    this.model = model;
    this.#free = new Float64Array(model.channels);
  }

  /** Microseconds since the device was made. */
  get nowMicros(): number {
    return this.#now;
  }

  /** Goes to a moment: the requests that follow are made then. One that lies in the past finds channels that are taken. */
  at(micros: number): void {
    this.#now = micros;
  }

  read(address: number, length: number): void {
    const { commandMicros, readMicros, linkBytesPerMicro } = this.model;
    this.#now += commandMicros;
    this.#now = this.#onMedium(this.#now, address, length, readMicros) + length / linkBytesPerMicro;
  }

  write(address: number, length: number): void {
    const { cacheBytes, commandMicros, writeMicros, linkBytesPerMicro } = this.model;
    this.#now += commandMicros + length / linkBytesPerMicro;
    if (length > cacheBytes) {
      this.#now = this.#onMedium(this.#now, address, length, writeMicros);
      return;
    }
    if (this.#cachedBytes + length > cacheBytes) this.#empty();
    this.#cachedBytes += length;
    const last = this.#cache.at(-1);
    if (last !== undefined && last.address + last.length === address) last.length += length;
    else this.#cache.push({ address, length });
  }

  /** A command that moves no bytes: zeros, discards, changes of names. */
  command(): void {
    this.#now += this.model.commandMicros;
  }

  flush(): void {
    this.#now += this.model.commandMicros;
    this.#empty();
    this.#now += this.model.flushMicros;
  }

  /** Everything that waits goes to the medium, as early as channels are free; the clock goes to the end of it. */
  #empty(): void {
    const start = this.#now;
    for (const { address, length } of joined(this.#cache)) {
      const end = this.#onMedium(start, address, length, this.model.writeMicros);
      this.#now = Math.max(this.#now, end);
    }
    this.#cache = [];
    this.#cachedBytes = 0;
  }

  /** When a request that the medium gets at `start` is done, on the channel that is free first. */
  #onMedium(start: number, address: number, length: number, micros: number): number {
    let channel = 0;
    for (let other = 1; other < this.#free.length; other += 1) {
      if (this.#free[other]! < this.#free[channel]!) channel = other;
    }
    const begins = Math.max(start, this.#free[channel]!);
    const end = begins + micros + this.#way(address) + length / this.model.channelBytesPerMicro;
    this.#free[channel] = end;
    this.#head = address + length;
    return end;
  }

  /** Seeks grow with the square root of the distance, as arms that speed up and slow down have it. */
  #way(address: number): number {
    const { head } = this.model;
    if (head === undefined || address === this.#head) return 0;
    const distance = Math.min(1, Math.abs(address - this.#head) / head.spanBytes);
    const more = head.longestSeekMicros - head.shortestSeekMicros;
    return head.shortestSeekMicros + more * Math.sqrt(distance) + head.halfTurnMicros;
  }
}

/** By rising address, neighbours and overlapping ones together. */
function joined(runs: readonly Written[]): Written[] {
  const joinedRuns: Written[] = [];
  for (const run of runs.toSorted((a, b) => a.address - b.address)) {
    const last = joinedRuns.at(-1);
    if (last === undefined || last.address + last.length < run.address) joinedRuns.push({ ...run });
    else last.length = Math.max(last.length, run.address + run.length - last.address);
  }
  return joinedRuns;
}
