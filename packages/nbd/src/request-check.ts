import { isReadOnly, MOST_PAYLOAD_BYTES, type NbdExport } from './exports.ts';
import type { WireFailure } from './failures.ts';
import { Command, CommandFlag, WireError } from './protocol.ts';
import type { ReplyMode } from './replies.ts';

/* What can be told to be wrong with a request before anything is done for it. */

export interface RequestFields {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
}

/** Every command may come with FUA; it means something to those that change the disk. */
const validFlags: readonly number[] = [
  /* read         */ CommandFlag.fua | CommandFlag.df,
  /* write        */ CommandFlag.fua,
  /* disconnect   */ CommandFlag.fua,
  /* flush        */ CommandFlag.fua,
  /* trim         */ CommandFlag.fua,
  /* cache        */ CommandFlag.fua,
  /* write zeroes */ CommandFlag.fua | CommandFlag.noHole | CommandFlag.fastZero,
  /* block status */ CommandFlag.fua | CommandFlag.reqOne,
];

export function changes(type: number): boolean {
  return type === Command.write || type === Command.trim || type === Command.writeZeroes;
}

export function requestFailure(
  { type, flags, offset, length }: RequestFields,
  target: NbdExport,
  mode: ReplyMode,
): WireFailure | undefined {
  const valid = validFlags[type];
  if (valid === undefined) return invalid(`unknown command ${type}`);
  // Extended headers say so when a payload follows; only a write may have one.
  const payload = mode === 'extended' && type === Command.write ? CommandFlag.payloadLength : 0;
  if ((flags & ~(valid | payload)) !== 0) return invalid(`flags ${flags} of command ${type}`);
  if (mode === 'simple' && (flags & CommandFlag.df) !== 0) return invalid('DF without structured replies');
  if (type === Command.flush) return undefined;
  if (changes(type) && isReadOnly(target))
    return { error: WireError.perm, message: 'the export is read-only' };
  return sizeFailure({ type, flags, offset, length }, target.disk.size);
}

function sizeFailure({ type, flags, offset, length }: RequestFields, size: number): WireFailure | undefined {
  if ((type === Command.read || type === Command.write) && length > MOST_PAYLOAD_BYTES) {
    // The protocol keeps EOVERFLOW for reads that ask for one piece.
    const error = (flags & CommandFlag.df) === 0 ? WireError.invalid : WireError.overflow;
    return { error, message: `${length} bytes are more than ${MOST_PAYLOAD_BYTES}` };
  }
  if (offset + length <= size) return undefined;
  const error =
    type === Command.write || type === Command.writeZeroes ? WireError.noSpace : WireError.invalid;
  return { error, message: `bytes ${offset} to ${offset + length} lie past the end at ${size}` };
}

function invalid(message: string): WireFailure {
  return { error: WireError.invalid, message };
}
