/*
 * The numbers of the NBD protocol (proto.md of the NetworkBlockDevice project): magics, flags, options, replies,
 * commands, errors. All fields on the wire are big-endian.
 */

/** Handshake: `NBDMAGIC`, `IHAVEOPT`, and the magic in front of an option reply; high and low halves where 64 bits. */
export const NBD_MAGIC: bigint = 0x4e42444d41474943n;
export const OPTION_MAGIC: bigint = 0x49484156454f5054n;
export const OPTION_REPLY_MAGIC: bigint = 0x0003e889045565a9n;

/** Transmission: what begins a request, and the three kinds of reply; the extended ones where both sides agreed. */
export const REQUEST_MAGIC = 0x25609513;
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;

/** Server's handshake flags, and the client's answer to them: the same bits. */
export const HandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const TransmissionFlag = {
  hasFlags: 1,
  readOnly: 2,
  sendFlush: 4,
  sendFua: 8,
  rotational: 16,
  sendTrim: 32,
  sendWriteZeroes: 64,
  sendDf: 128,
  canMultiConn: 256,
  sendResize: 512,
  sendCache: 1024,
  sendFastZero: 2048,
  blockStatusPayload: 4096,
} as const;

export const Option = {
  exportName: 1,
  abort: 2,
  list: 3,
  starttls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

/** Replies to options; an error has the top bit. */
export const OptionReply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errUnsupported: 0x8000_0001,
  errPolicy: 0x8000_0002,
  errInvalid: 0x8000_0003,
  errPlatform: 0x8000_0004,
  errTlsRequired: 0x8000_0005,
  errUnknown: 0x8000_0006,
  errShutdown: 0x8000_0007,
  errBlockSizeRequired: 0x8000_0008,
  errTooBig: 0x8000_0009,
  errExtendedHeadersRequired: 0x8000_000a,
} as const;

/** What a reply to INFO or GO tells. */
export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const CommandFlag = {
  fua: 1,
  noHole: 2,
  df: 4,
  reqOne: 8,
  fastZero: 16,
  payloadLength: 32,
} as const;

/** Types of chunks of a structured reply. */
export const Chunk = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  blockStatusExtended: 6,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;
export const CHUNK_DONE = 1;

/** Errors on the wire; the numbers are the protocol's, whatever the host's are. */
export const WireError = {
  perm: 1,
  io: 5,
  noMemory: 12,
  invalid: 22,
  noSpace: 28,
  overflow: 75,
  notSupported: 95,
  shutdown: 108,
} as const;

/** States of `base:allocation`. */
export const AllocationState = { hole: 1, zero: 2 } as const;
