import type { Disk } from '@cowlab/core';
import { TransmissionFlag } from './protocol.ts';
import type { ReplyMode } from './replies.ts';

/** A disk that clients may ask for by a name. */
export interface NbdExport {
  /** At most 4,096 bytes of UTF-8; the empty name is what a client gets that names none. */
  readonly name: string;
  /** For people; shown by clients that list exports. At most 4,096 bytes. */
  readonly description?: string;
  /** Stays open as long as the server; the server never closes it. */
  readonly disk: Disk;
  /** Refuses changes even where the disk would take them. A disk that is open read-only is exported so anyway. */
  readonly readOnly: boolean;
}

/** The longest name, description, or context that the protocol has, bytes of UTF-8. */
export const MOST_STRING_BYTES = 4096;
/** The longest read or write; longer ones are refused. What clients expect of servers that do not say. */
export const MOST_PAYLOAD_BYTES: number = 32 * 1024 * 1024;

export function isReadOnly(target: NbdExport): boolean {
  return target.readOnly || target.disk.readOnly;
}

/**
 * What a client is told it may do. Several connections to one export are safe to use together: all of them end in one
 * Disk of one process, a write is answered once the Disk has it, every read after that sees it, and a flush makes
 * durable whatever any connection had answered before. So MULTI_CONN is declared.
 */
export function transmissionFlags(target: NbdExport, mode: ReplyMode): number {
  const flag = TransmissionFlag;
  let flags = flag.hasFlags | flag.sendFlush | flag.sendFua | flag.canMultiConn | flag.sendCache;
  if (mode !== 'simple') flags |= flag.sendDf;
  return isReadOnly(target)
    ? flags | flag.readOnly
    : flags | flag.sendTrim | flag.sendWriteZeroes | flag.sendFastZero;
}

/** Any byte can be read and written alone; requests of whole units are best. */
export function blockSizes(target: NbdExport): { minimum: number; preferred: number; maximum: number } {
  const { unitBytes } = target.disk;
  const preferred = Math.min(Math.max(unitBytes, 512), MOST_PAYLOAD_BYTES);
  return { minimum: 1, preferred, maximum: MOST_PAYLOAD_BYTES };
}
