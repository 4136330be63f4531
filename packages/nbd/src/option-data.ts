import { MOST_STRING_BYTES } from './exports.ts';

/*
 * The data of an option, decoded with every length checked against what is there. `undefined` is the one answer to
 * data that contradict themselves; the caller says so to the client.
 */

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

class DataReader {
  readonly #data: Buffer;
  #at = 0;

  constructor(data: Buffer) {
    this.#data = data;
  }

  get atEnd(): boolean {
    return this.#at === this.#data.length;
  }

  number(bytes: 2 | 4): number | undefined {
    if (this.#data.length - this.#at < bytes) return undefined;
    const value = this.#data.readUIntBE(this.#at, bytes);
    this.#at += bytes;
    return value;
  }

  /** A string behind its length. */
  string(): string | undefined {
    const length = this.number(4);
    if (length === undefined || length > this.#data.length - this.#at) return undefined;
    const text = decodeText(this.#data.subarray(this.#at, this.#at + length));
    this.#at += length;
    return text;
  }
}

/** A name as the protocol has it: UTF-8, no NUL, at most 4,096 bytes. */
export function decodeText(bytes: Uint8Array): string | undefined {
  if (bytes.length > MOST_STRING_BYTES || bytes.includes(0)) return undefined;
  try {
    return strict.decode(bytes);
  } catch {
    return undefined;
  }
}

/** INFO and GO: an export, and what the client wants to know beyond its size. */
export function decodeInfoRequest(data: Buffer): { name: string; wanted: number[] } | undefined {
  const reader = new DataReader(data);
  const name = reader.string();
  const count = reader.number(2);
  if (name === undefined || count === undefined) return undefined;
  const wanted: number[] = [];
  for (let index = 0; index < count; index++) {
    const kind = reader.number(2);
    if (kind === undefined) return undefined;
    wanted.push(kind);
  }
  return reader.atEnd ? { name, wanted } : undefined;
}

/** LIST_META_CONTEXT and SET_META_CONTEXT: an export, and queries. */
export function decodeContextRequest(data: Buffer): { name: string; queries: string[] } | undefined {
  const reader = new DataReader(data);
  const name = reader.string();
  const count = reader.number(4);
  if (name === undefined || count === undefined) return undefined;
  const queries: string[] = [];
  for (let index = 0; index < count; index++) {
    const query = reader.string();
    if (query === undefined) return undefined;
    queries.push(query);
  }
  return reader.atEnd ? { name, queries } : undefined;
}
