import { Socket } from 'node:net';

/*
 * Sockets that read into buffers of ours. Node gives each read of an accepted socket a new buffer of 64 KiB, which
 * is mostly garbage by the next one: a third of the time of large writes went to the collector. Sockets that a program
 * makes itself can have buffers (`onread`), accepted ones cannot; so the accepted one's handle gets a socket of our making.
 *
 * The handle is not documented. Where it is not as expected the accepted socket stays, and all goes on as before, slower.
 */

const HANDLE = '_handle';

/** What of a socket's handle is looked at. */
interface Handle {
  readonly useUserBuffer?: unknown;
}

export interface Reading {
  /** Where the next bytes are to go; asked again after each `filled`. */
  readonly room: () => Uint8Array;
  /** So many bytes lie at the start of what `room` returned last. */
  readonly filled: (bytes: number) => void;
}

/**
 * A socket in place of `accepted`, which is of no use afterwards; undefined when that is not possible. Nothing may be
 * on its way to or from the accepted one's buffers.
 */
export function withOwnBuffer(accepted: Socket, { room, filled }: Reading): Socket | undefined {
  const holder = accepted as unknown as Record<typeof HANDLE, Handle | null>;
  const handle = holder[HANDLE];
  const isIdle = accepted.writableLength === 0 && accepted.readableLength === 0 && !accepted.readableEnded;
  if (!isIdle || accepted.destroyed || typeof handle?.useUserBuffer !== 'function') return undefined;
  holder[HANDLE] = null;
  accepted.removeAllListeners();
  const callback = (bytes: number): boolean => {
    filled(bytes);
    return true;
  };
  const options = { handle, allowHalfOpen: true, onread: { buffer: room, callback } };
  const socket = new Socket(options);
  accepted.destroy();
  return socket;
}
