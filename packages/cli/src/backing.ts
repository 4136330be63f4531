import path from 'node:path';
import { type BackingReference, isCowlabError } from '@cowlab/core';
import { isNbdUri } from '@cowlab/nbd';
import { invalidUse } from './errors.ts';
import { driverOf } from './formats.ts';
import { withImage } from './images.ts';

/** A backing file as it is typed. */
export interface TypedBacking {
  readonly file: string;
  readonly format?: string | undefined;
  readonly snapshot?: string | undefined;
}

/** Whoever types a backing file's name has allowed its folder by that, for this command. */
export function backingFolders(file: string, backing: string | undefined): string[] {
  return backing === undefined || backing === '' ? [] : [path.dirname(whereIs(file, backing))];
}

/** Names of backing files are relative to the image that has them. */
function whereIs(file: string, backing: string): string {
  if (isNbdUri(file)) throw invalidUse(file, 'an image on an export cannot have a backing file');
  if (isNbdUri(backing)) throw invalidUse(backing, 'a backing file is a file, not an export');
  return path.resolve(path.dirname(file), backing);
}

/** Always with its format: probing a raw backing file at every opening would let its contents choose a format. */
export async function backingOf(
  file: string,
  { file: backing, format: typed, snapshot }: TypedBacking,
  allow: readonly string[],
): Promise<BackingReference> {
  const where = whereIs(file, backing);
  const format =
    typed === undefined
      ? await withImage(where, { allow }, async (disk) => disk.format)
      : driverOf(typed, '-F').name;
  return { file: backing, format, ...(snapshot !== undefined && { snapshot }) };
}

/** The same for a file that need not be there: then no format is recorded, unless one was typed. */
export async function backingOfAny(
  file: string,
  typed: TypedBacking,
  allow: readonly string[],
): Promise<BackingReference> {
  try {
    return await backingOf(file, typed, allow);
  } catch (error) {
    if (!isCowlabError(error, 'ERR_NOT_FOUND') && !isCowlabError(error, 'ERR_BACKING_MISSING')) throw error;
    return { file: typed.file };
  }
}
