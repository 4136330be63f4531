import { Command } from '../protocol.ts';

/** A run of an export with one state (bits of `AllocationState`); lengths in bytes. */
export interface StatusRun {
  readonly length: number;
  readonly state: number;
}

/** One request of the protocol: at most one piece of what a caller asked for. */
export interface Request {
  /** Of {@link Command}. */
  readonly command: number;
  /** Of `CommandFlag`. */
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  /** What a write sends; stays as it is until the request is settled. */
  readonly payload?: Uint8Array;
  /** Where a read goes; nobody writes into it once the request is settled. */
  readonly target?: Uint8Array;
  /** Answer of BLOCK_STATUS. */
  runs?: StatusRun[];
  /** When its connection was lost first, by `performance.now()`. */
  lostAt?: number;
  /** Called once. */
  readonly settle: (error?: Error) => void;
}

const fieldNames: ReadonlyMap<number, string> = new Map([
  [Command.read, 'read'],
  [Command.write, 'write'],
  [Command.flush, 'flush'],
  [Command.trim, 'discard'],
  [Command.writeZeroes, 'zero'],
  [Command.blockStatus, 'status'],
]);

/** The storage call that a request is of, for messages. */
export function fieldOf({ command }: Request): string {
  return fieldNames.get(command) ?? `command ${command}`;
}

/** Whether a request changes bytes: one that may have been done cannot be sent again as if it had not. */
export function isChange({ command }: Request): boolean {
  return command === Command.write || command === Command.writeZeroes || command === Command.trim;
}

/** Bytes that a request moves, either way. */
export function movedBytes({ payload, target }: Request): number {
  return (payload ?? target)?.length ?? 0;
}
