import { type BackingReference, CowlabError, roundUp, viewOf, writeU64BE } from '@cowlab/core';
import { headerFields as fields } from './layout-fields.ts';
import {
  extensionBackingFormat,
  extensionBitmaps,
  extensionEnd,
  extensionFeatureNames,
  extensionNextSnapshotId,
  maxBackingNameBytes,
  sectorBytes,
  v2HeaderBytes,
  writtenHeaderBytes,
} from './layout.ts';

/*
 * Rewriting what the first cluster says: the header with its extensions and the name of the backing file. Pure, no I/O.
 * Every extension is kept as it is. The first sector decides, so it must be enough to write that one sector:
 *
 *   all of it fits one sector        header | extensions | end | name
 *   else                             header | small ones | skip ─→ …   the other extensions | end | name
 *
 * «skip» is an extension of our own, of a type that others ignore, as long as the way to the rest. The rest lies where
 * the present header has nothing, and is durable before the sector that leads to it. QEMU wants the name behind the
 * extensions.
 */

/** Ours, "COWS": nothing, as long as it has to be. */
const extensionSkip = 0x434f5753;
/** Those whose contents change together with fields of the header, in one sector. */
const nearTypes: ReadonlySet<number> = new Set([extensionNextSnapshotId, extensionBitmaps]);

interface Extension {
  readonly type: number;
  readonly data: Uint8Array;
}

export interface HeaderChange {
  readonly version?: 2 | 3;
  /** null: none; left out: as it is. */
  readonly backing?: BackingReference | null;
}

export interface RewrittenHeader {
  /** Comes first, and is durable before the sector: nothing leads there yet. */
  readonly rest?: { readonly offset: number; readonly bytes: Uint8Array };
  readonly sector: Uint8Array;
}

/** `area` is the file's first cluster. Undefined when that has no room. */
export function rewriteHeader(area: Uint8Array, change: HeaderChange): RewrittenHeader | undefined {
  const present = readArea(area);
  const name = change.backing === undefined ? present.name : nameOf(change.backing);
  const format = change.backing === undefined ? undefined : formatOf(change.backing);
  const kept = present.extensions.filter(
    ({ type }) => change.backing === undefined || type !== extensionBackingFormat,
  );
  const extensions = format === undefined ? kept : [format, ...kept];
  const header = withVersion(area.subarray(0, present.headerBytes), change.version);
  const place = (listed: readonly Extension[]): RewrittenHeader | undefined =>
    inOneSector(header, listed, name) ?? inTwoPlaces(header, listed, name, present, area.length);
  // Names of features are the one thing that may go when a cluster has no room.
  return place(extensions) ?? place(extensions.filter(({ type }) => type !== extensionFeatureNames));
}

/** Throws `ERR_INVALID_OPTION` for a name that is longer than the format allows. */
export function assertBackingFits(file: string, backing: BackingReference): void {
  const bytes = nameOf(backing).length;
  if (bytes <= maxBackingNameBytes) return;
  const problem = `its name has ${bytes} bytes; the most are ${maxBackingNameBytes}`;
  throw new CowlabError('ERR_INVALID_OPTION', `${file}: backing file: ${problem}`, {
    file,
    field: 'backing file',
    value: backing.file,
  });
}

/** What the first cluster says now; the parts of it that are in use. */
interface Area {
  readonly headerBytes: number;
  readonly extensions: readonly Extension[];
  readonly name: Uint8Array;
  /** Past the first sector. */
  readonly usedFrom: number;
  readonly usedTo: number;
}

function readArea(area: Uint8Array): Area {
  const view = viewOf(area);
  const headerBytes =
    view.getUint32(fields.version.at) === 3 ? view.getUint32(fields.header_length.at) : v2HeaderBytes;
  const extensions: Extension[] = [];
  let at = headerBytes;
  let usedFrom = area.length;
  while (at + 8 <= area.length && view.getUint32(at) !== extensionEnd) {
    const type = view.getUint32(at);
    const bytes = view.getUint32(at + 4);
    const next = at + 8 + roundUp(bytes, 8);
    if (type !== extensionSkip) {
      extensions.push({ type, data: area.slice(at + 8, at + 8 + bytes) });
      if (next > sectorBytes) usedFrom = Math.min(usedFrom, at);
    }
    at = next;
  }
  const end = at + 8;
  const nameAt = Number(view.getBigUint64(fields.backing_file_offset.at));
  const nameBytes = nameAt === 0 ? 0 : view.getUint32(fields.backing_file_size.at);
  if (end > sectorBytes) usedFrom = Math.min(usedFrom, at);
  if (nameAt + nameBytes > sectorBytes) usedFrom = Math.min(usedFrom, nameAt);
  const usedTo = Math.max(sectorBytes, end, nameAt + nameBytes);
  return { headerBytes, extensions, name: area.slice(nameAt, nameAt + nameBytes), usedFrom, usedTo };
}

function nameOf(backing: BackingReference | null): Uint8Array {
  return new TextEncoder().encode(backing?.file ?? '');
}

function formatOf(backing: BackingReference | null): Extension | undefined {
  const data = new TextEncoder().encode(backing?.format ?? '');
  return data.length === 0 ? undefined : { type: extensionBackingFormat, data };
}

/** The header's own bytes, as the version wants them. */
function withVersion(header: Uint8Array, version: 2 | 3 | undefined): Uint8Array {
  const present = viewOf(header).getUint32(fields.version.at);
  if (version === undefined || version === present) return header.slice();
  const bytes = new Uint8Array(version === 2 ? v2HeaderBytes : writtenHeaderBytes);
  bytes.set(header.subarray(0, v2HeaderBytes));
  const view = viewOf(bytes);
  view.setUint32(fields.version.at, version);
  if (version === 3) {
    view.setUint32(fields.refcount_order.at, 4);
    view.setUint32(fields.header_length.at, writtenHeaderBytes);
  }
  return bytes;
}

function encodedBytes(extensions: readonly Extension[]): number {
  return extensions.reduce((sum, { data }) => sum + 8 + roundUp(data.length, 8), 0);
}

/** Writes extensions from `at` on; gives back where they end. */
function putExtensions(bytes: Uint8Array, at: number, extensions: readonly Extension[]): number {
  const view = viewOf(bytes);
  let to = at;
  for (const { type, data } of extensions) {
    view.setUint32(to, type);
    view.setUint32(to + 4, data.length);
    bytes.set(data, to + 8);
    to += 8 + roundUp(data.length, 8);
  }
  return to;
}

function pointAtName(sector: Uint8Array, offset: number, { length }: Uint8Array): void {
  const view = viewOf(sector);
  writeU64BE(view, fields.backing_file_offset.at, length === 0 ? 0 : offset);
  view.setUint32(fields.backing_file_size.at, length);
}

function inOneSector(
  header: Uint8Array,
  extensions: readonly Extension[],
  name: Uint8Array,
): RewrittenHeader | undefined {
  const nameAt = header.length + encodedBytes(extensions) + 8;
  if (nameAt + name.length > sectorBytes) return undefined;
  const sector = new Uint8Array(sectorBytes);
  sector.set(header);
  putExtensions(sector, header.length, extensions);
  sector.set(name, nameAt);
  pointAtName(sector, nameAt, name);
  return { sector };
}

function inTwoPlaces(
  header: Uint8Array,
  extensions: readonly Extension[],
  name: Uint8Array,
  { usedFrom, usedTo }: Area,
  clusterBytes: number,
): RewrittenHeader | undefined {
  const near = extensions.filter(({ type }) => nearTypes.has(type));
  const far = extensions.filter(({ type }) => !nearTypes.has(type));
  const nearEnd = header.length + encodedBytes(near);
  const nameAt = encodedBytes(far) + 8;
  const bytes = new Uint8Array(nameAt + name.length);
  const offset = sectorBytes + bytes.length <= usedFrom ? sectorBytes : roundUp(usedTo, 8);
  if (nearEnd + 8 > sectorBytes || offset + bytes.length > clusterBytes) return undefined;
  putExtensions(bytes, 0, far);
  bytes.set(name, nameAt);
  const sector = new Uint8Array(sectorBytes);
  sector.set(header);
  putExtensions(sector, header.length, near);
  viewOf(sector).setUint32(nearEnd, extensionSkip);
  viewOf(sector).setUint32(nearEnd + 4, offset - nearEnd - 8);
  pointAtName(sector, offset + nameAt, name);
  return { rest: { offset, bytes }, sector };
}
