import zlib from 'node:zlib';
import { promisify } from 'node:util';
import type { CompressionType } from './layout.ts';
import { frameAt } from './zstd-frame.ts';

/*
 * The two forms that a compressed cluster can have; the header says which, for the whole image.
 *
 *   zlib   a raw deflate stream with a window of 4 KiB: QEMU's decoder has room for no larger one
 *   zstd   a frame, or some. From Node itself where it has zstd (22.15 and later), else from a library, which is
 *          loaded with the first image that asks for it
 *
 * Node's encoders run in its thread pool, so several clusters are encoded at once. Decoders get whole sectors: what
 * lies behind the stream belongs to other clusters. They never make more than a cluster.
 */

export interface Codec {
  /** Throws an Error that says why `stored` decodes to no whole cluster. */
  decode(stored: Uint8Array, clusterBytes: number): Uint8Array;
  encode(cluster: Uint8Array): Promise<Uint8Array>;
}

export async function codecOf(type: CompressionType): Promise<Codec> {
  if (type === 'zlib') return deflate;
  return zstdOf(hasZstd(zlib) ? nativeZstd(zlib) : await loadZstd());
}

const deflateRaw = promisify<Uint8Array, zlib.ZlibOptions, Uint8Array>(zlib.deflateRaw);

const deflate: Codec = {
  decode(stored, clusterBytes) {
    return zlib.inflateRawSync(stored, {
      maxOutputLength: clusterBytes,
      chunkSize: Math.max(zlib.constants.Z_MIN_CHUNK, clusterBytes),
      finishFlush: zlib.constants.Z_SYNC_FLUSH,
    });
  },
  encode(cluster) {
    // All of the output in one piece: each piece is a way through the thread pool.
    return deflateRaw(cluster, { windowBits: 12, memLevel: 9, chunkSize: cluster.length + 64 });
  },
};

/** A zstd that takes one frame without anything behind it, and makes at most `most` bytes of it. */
interface Zstd {
  decode(frame: Uint8Array, most: number): Uint8Array;
  encode(bytes: Uint8Array): Promise<Uint8Array>;
}

function zstdOf(zstd: Zstd): Codec {
  return {
    encode: (cluster) => zstd.encode(cluster),
    decode(stored, clusterBytes) {
      let cluster: Uint8Array = new Uint8Array(0);
      for (let at = 0; cluster.length < clusterBytes; ) {
        const { end, contentBytes = 0 } = frameAt(stored, at);
        const most = clusterBytes - cluster.length;
        if (contentBytes > most) throw new Error('the zstd frame is of more than a cluster');
        const part = zstd.decode(stored.subarray(at, end), most);
        cluster = cluster.length === 0 ? part : Buffer.concat([cluster, part]);
        at = end;
      }
      return cluster;
    },
  };
}

/** What Node's own zstd looks like; the types of Node 20 do not know it. */
interface NativeZstd {
  zstdCompress(this: void, bytes: Uint8Array, done: (error: Error | null, result: Uint8Array) => void): void;
  zstdDecompressSync(bytes: Uint8Array, options: { readonly maxOutputLength: number }): Uint8Array;
}

function hasZstd(module: object): module is NativeZstd {
  return 'zstdCompress' in module && 'zstdDecompressSync' in module;
}

function nativeZstd(module: NativeZstd): Zstd {
  return {
    encode: promisify<Uint8Array, Uint8Array>(module.zstdCompress),
    decode: (frame, most) => module.zstdDecompressSync(frame, { maxOutputLength: most }),
  };
}

let loading: Promise<Zstd> | undefined;

/** Loaded once; a failure to load is tried again by who asks next. */
function loadZstd(): Promise<Zstd> {
  loading ??= importZstd().catch((error: unknown) => {
    loading = undefined;
    throw error;
  });
  return loading;
}

async function importZstd(): Promise<Zstd> {
  const { init, compress, decompress } = await import('@bokuweb/zstd-wasm');
  await init();
  return {
    encode: async (bytes) => compress(bytes),
    decode: (frame, most) => decompress(frame, { defaultHeapSize: most }),
  };
}
