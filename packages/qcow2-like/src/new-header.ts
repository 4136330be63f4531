import { roundUp, viewOf, writeU64BE } from '@cowlab/core';
import { autoclearRawData, extensionDataFile, incompatibleDataFile } from './data-file.ts';
import { featureNameTable } from './feature-names.ts';
import { headerFields as fields } from './layout-fields.ts';
import {
  compatibleLazyRefcounts,
  compressionTypes,
  extensionBackingFormat,
  extensionFeatureNames,
  extensionNextSnapshotId,
  type Header,
  incompatibleCompression,
  incompatibleExtendedL2,
  magic,
  patchHeader,
  sectorBytes,
  v2HeaderBytes,
  writtenHeaderBytes,
} from './layout.ts';

/** A header extension: type, length, data padded to 8 bytes. */
function extension(type: number, data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(8 + roundUp(data.length, 8));
  const view = viewOf(bytes);
  view.setUint32(0, type);
  view.setUint32(4, data.length);
  bytes.set(data, 8);
  return bytes;
}

/** The counter comes first: it has to stay in the first sector. */
function extensionsOf({ nextSnapshotId, dataFile, backing }: Header): Uint8Array[] {
  const text = new TextEncoder();
  const counter = new Uint8Array(8);
  writeU64BE(viewOf(counter), 0, nextSnapshotId ?? 1);
  const extensions = [extension(extensionNextSnapshotId, counter)];
  if (dataFile !== undefined) extensions.push(extension(extensionDataFile, text.encode(dataFile.name)));
  const format = text.encode(backing?.format ?? '');
  if (format.length > 0) extensions.push(extension(extensionBackingFormat, format));
  return extensions;
}

const featureNames = extension(extensionFeatureNames, featureNameTable());
const endMark = new Uint8Array(8);

/** A new image's header with extensions and backing name; at most one cluster, or undefined when it does not fit. */
export function encodeHeader(header: Header): Uint8Array | undefined {
  const name = new TextEncoder().encode(header.backing?.file ?? '');
  const start = header.version === 3 ? writtenHeaderBytes : v2HeaderBytes;
  const needed = extensionsOf(header);
  const withNames = Buffer.concat([...needed, featureNames, endMark]);
  // As QEMU does it: names of features are for those who have room.
  const hasNames = header.version === 3 && start + withNames.length + name.length <= 2 ** header.clusterBits;
  const extensions = hasNames ? withNames : Buffer.concat([...needed, endMark]);
  const nameAt = start + extensions.length;
  const bytes = new Uint8Array(roundUp(nameAt + name.length, sectorBytes));
  if (bytes.length > 2 ** header.clusterBits) return undefined;
  const view = viewOf(bytes);
  view.setUint32(fields.magic.at, magic);
  view.setUint32(fields.version.at, header.version);
  view.setUint32(fields.cluster_bits.at, header.clusterBits);
  if (name.length > 0) {
    writeU64BE(view, fields.backing_file_offset.at, nameAt);
    view.setUint32(fields.backing_file_size.at, name.length);
    bytes.set(name, nameAt);
  }
  const { version, dirty: _dirty, damaged: _damaged, autoclear: _autoclear, ...patch } = header;
  patchHeader(bytes, patch);
  if (version === 3) {
    const { compressionType, dataFile, extendedL2, lazyRefcounts } = header;
    const incompatible =
      (dataFile === undefined ? 0n : incompatibleDataFile) |
      (compressionType === 'zlib' ? 0n : incompatibleCompression) |
      (extendedL2 ? incompatibleExtendedL2 : 0n);
    view.setBigUint64(fields.incompatible_features.at, incompatible);
    view.setUint8(fields.compression_type.at, compressionTypes.indexOf(compressionType));
    view.setBigUint64(fields.compatible_features.at, lazyRefcounts ? compatibleLazyRefcounts : 0n);
    view.setBigUint64(fields.autoclear_features.at, dataFile?.raw === true ? autoclearRawData : 0n);
    view.setUint32(fields.refcount_order.at, Math.log2(header.refcountBits));
    view.setUint32(fields.header_length.at, writtenHeaderBytes);
  }
  bytes.set(extensions, start);
  return bytes;
}
