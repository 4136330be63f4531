import type { Runs } from './layout.ts';

/*
 * The run lists of all split chunks, in two typed arrays: 10 bytes a run, and close together, because what a small
 * read of a split chunk costs beyond one of a whole chunk are the cache lines that its list is spread over.
 *
 *   place + i, i > 0   first block of run i, and where it lies
 *   place              where run 0 lies; it begins with block 0, so instead of that there is the number of runs
 *
 * A list has room for a power of two of runs. Rooms that are given up are kept by size, and taken again. Places are
 * multiples of the smallest room, and a list's number counts those.
 */

const MIN_ROOM = 4;
const FIRST_ROOMS = 16;
const GROWTH = 1.5;

/** Number of the room size that `count` runs fit in: 4, 8, 16, … */
function sizeClass(count: number): number {
  return count <= MIN_ROOM ? 0 : 32 - Math.clz32((count - 1) >>> 2);
}

export class RunPool {
  #starts: Uint16Array = new Uint16Array(FIRST_ROOMS * MIN_ROOM);
  #hosts: Float64Array = new Float64Array(FIRST_ROOMS * MIN_ROOM);
  #end = 0;
  #lists = 0;
  #freeRooms: number[][] = [];

  get residentBytes(): number {
    return this.#starts.byteLength + this.#hosts.byteLength;
  }

  get lists(): number {
    return this.#lists;
  }

  /** Keeps a list; its number. */
  add({ starts, hosts }: Runs): number {
    const place = this.#takeRoom(sizeClass(starts.length));
    this.#starts.set(starts, place);
    this.#starts[place] = starts.length;
    this.#hosts.set(hosts, place);
    this.#lists++;
    return place / MIN_ROOM;
  }

  remove(list: number): void {
    const rooms = (this.#freeRooms[sizeClass(this.count(list))] ??= []);
    rooms.push(list * MIN_ROOM);
    this.#lists--;
  }

  count(list: number): number {
    return this.#starts[list * MIN_ROOM]!;
  }

  start(list: number, run: number): number {
    return run === 0 ? 0 : this.#starts[list * MIN_ROOM + run]!;
  }

  host(list: number, run: number): number {
    return this.#hosts[list * MIN_ROOM + run]!;
  }

  /** The run that the block lies in. Halves without a branch: which way it goes is a coin toss that nothing predicts. */
  find(list: number, block: number): number {
    const starts = this.#starts;
    const place = list * MIN_ROOM;
    let low = place;
    for (let count = starts[place]!; count > 1; ) {
      const half = count >>> 1;
      low += ((starts[low + half]! - block - 1) >> 31) & half;
      count -= half;
    }
    return low - place;
  }

  get(list: number): Runs {
    const runs: Runs = { starts: [], hosts: [] };
    for (let run = 0; run < this.count(list); run++) {
      runs.starts.push(this.start(list, run));
      runs.hosts.push(this.host(list, run));
    }
    return runs;
  }

  copy(): RunPool {
    const copy = new RunPool();
    copy.#starts = this.#starts.slice();
    copy.#hosts = this.#hosts.slice();
    copy.#end = this.#end;
    copy.#lists = this.#lists;
    copy.#freeRooms = this.#freeRooms.map((rooms) => [...rooms]);
    return copy;
  }

  #takeRoom(size: number): number {
    const free = this.#freeRooms[size]?.pop();
    if (free !== undefined) return free;
    const place = this.#end;
    this.#end += MIN_ROOM << size;
    if (this.#end > this.#starts.length) {
      const length = Math.ceil(this.#end * GROWTH);
      const starts = new Uint16Array(length);
      const hosts = new Float64Array(length);
      starts.set(this.#starts);
      hosts.set(this.#hosts);
      this.#starts = starts;
      this.#hosts = hosts;
    }
    return place;
  }
}
