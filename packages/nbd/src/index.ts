export type { NbdExport } from './exports.ts';
export { type NbdAddress, NbdServer, type NbdServerOptions, type NbdServerStats } from './server.ts';
export { type NbdTlsOptions, parsePskKeys } from './tls.ts';
