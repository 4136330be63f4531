import { CowlabError } from '@cowlab/core';

/*
 * Texts of a descriptor as bytes, a character for each. Which encoding they have is told by its line `encoding=`;
 * UTF-8 where there is none. Bytes that are not of that encoding, or of one that nobody here knows, are taken as
 * Latin-1, so that every text can be read, and written back as it was.
 */

/** Letters of the bytes 0x80 … 0x9f in windows-1252; Node's own decoder takes them for those of Latin-1. */
const WINDOWS_1252 =
  '\u20ac\x81\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\x8d\u017d\x8f' +
  '\x90\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\x9d\u017e\u0178';

/** What a `TextDecoder` does, as far as it is used here. */
interface Decoder {
  readonly encoding: string;
  decode(bytes: Uint8Array): string;
}

const windows1252: Decoder = {
  encoding: 'windows-1252',
  decode: (bytes) =>
    Array.from(bytes, (byte) => WINDOWS_1252[byte - 0x80] ?? String.fromCharCode(byte)).join(''),
};

function decoderOf(label: string): Decoder | undefined {
  try {
    const decoder = new TextDecoder(label, { fatal: true, ignoreBOM: true });
    return decoder.encoding === 'windows-1252' ? windows1252 : decoder;
  } catch {
    return undefined;
  }
}

export function decodeText(label: string, bytes: string): string {
  try {
    return decoderOf(label)?.decode(Buffer.from(bytes, 'latin1')) ?? bytes;
  } catch {
    return bytes;
  }
}

/** Throws `ERR_INVALID_OPTION` for a text that the encoding has no bytes for. */
export function encodeText(label: string, text: string): string {
  if (Array.from(text).every((char) => char < '\u0080')) return text;
  const decoder = decoderOf(label);
  if (decoder === undefined || decoder.encoding === 'utf-8')
    return Buffer.from(text, 'utf8').toString('latin1');
  const bytes = Array.from(text).map((char) => byteOf(decoder, char));
  if (!bytes.includes(undefined)) return bytes.join('');
  throw new CowlabError(
    'ERR_INVALID_OPTION',
    `file name cannot stand in a descriptor of encoding ${label}: ${text}`,
    { field: 'file name', value: text },
  );
}

/** The one byte that stands for a letter; undefined where there is none, as in encodings of several bytes. */
function byteOf(decoder: Decoder, char: string): string | undefined {
  for (let code = 0; code < 256; code++) {
    try {
      if (decoder.decode(Uint8Array.of(code)) === char) return String.fromCharCode(code);
    } catch {
      // A byte that begins a longer letter, or none.
    }
  }
  return undefined;
}
