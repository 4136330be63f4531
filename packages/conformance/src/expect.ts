import assert from 'node:assert/strict';
import { inspect } from 'node:util';
import { CowlabError, type ErrorCode } from '@cowlab/core';

/** Runs `call`, which may throw or reject; gives back what came out of it, or undefined when nothing did. */
export async function failureOf(call: () => unknown): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return error ?? new Error('threw nothing');
  }
  return undefined;
}

function describeFailure(error: unknown): string {
  if (error === undefined) return 'it succeeded';
  if (error instanceof CowlabError) return `${error.code}: ${error.message}`;
  return error instanceof Error ? (error.stack ?? error.message) : inspect(error);
}

/** `call` fails with a CowlabError that has one of `codes`. */
export async function failsWith(
  codes: ErrorCode | readonly ErrorCode[],
  what: string,
  call: () => unknown,
): Promise<CowlabError> {
  const allowed: readonly ErrorCode[] = typeof codes === 'string' ? [codes] : codes;
  const error = await failureOf(call);
  if (error instanceof CowlabError && allowed.includes(error.code)) return error;
  assert.fail(`${what}: expected ${allowed.join(' or ')}, but ${describeFailure(error)}`);
}

/** `call` fails as a programmer's mistake does. */
export async function failsWithRangeError(what: string, call: () => unknown): Promise<void> {
  const error = await failureOf(call);
  assert.ok(error instanceof RangeError, `${what}: expected a RangeError, but ${describeFailure(error)}`);
}

/** `error` is undefined or a CowlabError: no crash, no programmer's mistake inside the driver. */
export function assertCoded(error: unknown, what: string): void {
  const coded = error === undefined || error instanceof CowlabError;
  assert.ok(coded, `${what}: an error without a code: ${describeFailure(error)}`);
}

export function assertSameBytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
  assert.equal(actual.length, expected.length, `${what}: length`);
  if (Buffer.compare(actual, expected) === 0) return;
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  const show = (bytes: Uint8Array): string => Buffer.from(bytes.subarray(at, at + 8)).toString('hex');
  assert.fail(`${what}: byte ${at} and on: ${show(actual)}…, expected ${show(expected)}…`);
}
