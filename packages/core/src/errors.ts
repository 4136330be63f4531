/** Every code a {@link CowlabError} can have. Documented one by one in this package's README. */
export type ErrorCode =
  | 'ERR_CORRUPT'
  | 'ERR_UNSUPPORTED'
  | 'ERR_UNKNOWN_FORMAT'
  | 'ERR_INVALID_OPTION'
  | 'ERR_NOT_FOUND'
  | 'ERR_EXISTS'
  | 'ERR_READ_ONLY'
  | 'ERR_CLOSED'
  | 'ERR_BUSY'
  | 'ERR_LOCKED'
  | 'ERR_ABORTED'
  | 'ERR_IO'
  | 'ERR_NO_SPACE'
  | 'ERR_TOO_LARGE'
  | 'ERR_INVALID_URI'
  | 'ERR_CONNECTION_LOST'
  | 'ERR_PROTOCOL'
  | 'ERR_TLS'
  | 'ERR_BACKING_DENIED'
  | 'ERR_BACKING_DEPTH'
  | 'ERR_BACKING_CYCLE'
  | 'ERR_BACKING_MISSING'
  | 'ERR_BACKING_NEEDED'
  | 'ERR_SNAPSHOT_NOT_FOUND'
  | 'ERR_SNAPSHOT_EXISTS'
  | 'ERR_SNAPSHOT_LIMIT';

/** What an error is about. `file` and `field` name the place; `value` is what was found there. */
export interface ErrorData {
  readonly file?: string;
  /** Structure and field, in the words of the format's specification: `header.l1_table_offset`. */
  readonly field?: string;
  readonly value?: number | string | bigint;
  readonly offset?: number;
  readonly [detail: string]: unknown;
}

/** The one error class of cowlab. Programmer mistakes are plain `TypeError` and `RangeError` instead. */
export class CowlabError extends Error {
  readonly code: ErrorCode;
  readonly data: ErrorData;

  constructor(code: ErrorCode, message: string, data: ErrorData = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'CowlabError';
    this.code = code;
    this.data = data;
  }
}

/** A structure of the image contradicts itself or its file. Nothing was modified. */
export function corrupt(file: string, field: string, problem: string, data: ErrorData = {}): CowlabError {
  return new CowlabError('ERR_CORRUPT', `${file}: ${field}: ${problem}`, { file, field, ...data });
}

/** The image is (or may be) valid, but asks for something this driver does not do. */
export function unsupported(file: string, field: string, problem: string, data: ErrorData = {}): CowlabError {
  return new CowlabError('ERR_UNSUPPORTED', `${file}: ${field}: ${problem}`, { file, field, ...data });
}

export function isCowlabError(error: unknown, code?: ErrorCode): error is CowlabError {
  return error instanceof CowlabError && (code === undefined || error.code === code);
}

const codesOfSystemErrors: ReadonlyMap<unknown, ErrorCode> = new Map([
  ['ENOSPC', 'ERR_NO_SPACE'],
  ['EDQUOT', 'ERR_NO_SPACE'],
  ['EFBIG', 'ERR_NO_SPACE'],
  ['ENOENT', 'ERR_NOT_FOUND'],
  ['ENOTDIR', 'ERR_NOT_FOUND'],
  ['EEXIST', 'ERR_EXISTS'],
  ['EROFS', 'ERR_READ_ONLY'],
  ['EACCES', 'ERR_READ_ONLY'],
  ['EPERM', 'ERR_READ_ONLY'],
  // A directory, and a socket or a pipe that nobody has open: opened as if they were files.
  ['EISDIR', 'ERR_UNSUPPORTED'],
  ['ENXIO', 'ERR_UNSUPPORTED'],
]);

/** A failed system call as a {@link CowlabError}; the call's own error is the cause. */
export function fromSystemError(error: unknown, file: string, call: string): CowlabError {
  const systemCode = (error as { code?: unknown } | null)?.code;
  const code = codesOfSystemErrors.get(systemCode) ?? 'ERR_IO';
  const reason = error instanceof Error ? error.message : String(error);
  return new CowlabError(code, `${file}: ${call}: ${reason}`, { file, call, systemCode }, error);
}
