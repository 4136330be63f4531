import { openDisk } from '@cowlab/core';
import { NbdServer } from '@cowlab/nbd';
import { drivers } from './formats.ts';

/*
 * A program: serves one image over a Unix socket until it is told to stop. Arguments: the format's name, the image, the
 * path of the socket.
 */

const [format = '', file = '', path = ''] = process.argv.slice(2);
const disk = await openDisk(file, { drivers, format });
const server = await NbdServer.listen({
  exports: [{ name: '', disk, readOnly: false }],
  listen: { path },
});
process.once('SIGTERM', () => {
  void server.close().then(() => disk.close());
});
