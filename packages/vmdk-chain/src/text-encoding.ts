import { CowlabError } from '@cowlab/core';

/*
 * Texts of a descriptor as bytes, a character for each. Which encoding they have is told by its line `encoding=`;
 * UTF-8 where there is none. Bytes that are not of that encoding, or of one that nobody here knows, are taken as
 * Latin-1, so that every text can be read, and written back as it was.
 */

type Decoder = InstanceType<typeof TextDecoder>;

function decoderOf(label: string): Decoder | undefined {
  try {
    return new TextDecoder(label, { fatal: true, ignoreBOM: true });
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
