import { type ErrorCode, isCowlabError } from '@cowlab/core';
import { WireError } from './protocol.ts';

/* Errors of a disk as the numbers that the protocol has for them. */

const numbers: Partial<Record<ErrorCode, number>> = {
  ERR_READ_ONLY: WireError.perm,
  ERR_NO_SPACE: WireError.noSpace,
  ERR_UNSUPPORTED: WireError.notSupported,
  ERR_INVALID_OPTION: WireError.invalid,
  ERR_TOO_LARGE: WireError.invalid,
  ERR_CLOSED: WireError.shutdown,
  ERR_ABORTED: WireError.shutdown,
};

/** What a client gets to know of a failure. */
export interface WireFailure {
  readonly error: number;
  readonly message: string;
}

/** The server itself will not do it. */
export class RefusedRequest extends Error {
  readonly wireError: number;

  constructor(wireError: number, message: string) {
    super(message);
    this.wireError = wireError;
  }
}

export function wireFailure(error: unknown): WireFailure {
  const message = error instanceof Error ? error.message : String(error);
  if (isCowlabError(error)) return { error: numbers[error.code] ?? WireError.io, message };
  if (error instanceof RefusedRequest) return { error: error.wireError, message };
  // The range was looked at before: the disk has become smaller since.
  return { error: error instanceof RangeError ? WireError.invalid : WireError.io, message };
}
