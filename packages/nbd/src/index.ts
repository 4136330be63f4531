export { type NbdClientOptions, NbdFolder, openNbd } from './client/folder.ts';
export type { NbdClientTls } from './client/tls.ts';
export { isNbdUri } from './client/uri.ts';
export type { NbdExport } from './exports.ts';
export { type NbdAddress, NbdServer, type NbdServerOptions, type NbdServerStats } from './server.ts';
export { type NbdTlsOptions, parsePskKeys } from './tls.ts';
