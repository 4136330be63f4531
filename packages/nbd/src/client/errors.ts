import { CowlabError, type ErrorCode } from '@cowlab/core';
import { WireError } from '../protocol.ts';

/** The server broke the protocol: `field` is the part of its answer, `problem` what is wrong with it. */
export function protocolError(file: string, field: string, problem: string, value?: number): CowlabError {
  const data = { file, field, ...(value !== undefined && { value }) };
  return new CowlabError('ERR_PROTOCOL', `${file}: ${field} ${problem}`, data);
}

const codes: ReadonlyMap<number, ErrorCode> = new Map([
  [WireError.perm, 'ERR_READ_ONLY'],
  [WireError.noSpace, 'ERR_NO_SPACE'],
  [WireError.notSupported, 'ERR_UNSUPPORTED'],
]);

/** A request that the server answered with an error number (proto.md, "Error values"), and its words where it has some. */
export function refusedRequest(
  file: string,
  { field, offset, length }: { field: string; offset: number; length: number },
  number: number,
  words: string,
): CowlabError {
  const name = Object.entries(WireError).find(([, value]) => value === number)?.[0] ?? `error ${number}`;
  const message = `${file}: ${field} of ${length} bytes at ${offset}: the server says ${words === '' ? name : words}`;
  const data = { file, field, offset, length, value: number };
  return new CowlabError(codes.get(number) ?? 'ERR_IO', message, data);
}
