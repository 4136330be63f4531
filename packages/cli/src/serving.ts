import type { Disk } from '@cowlab/core';
import { type NbdExport, NbdServer } from '@cowlab/nbd';
import { withImage } from './images.ts';
import { interruptible } from './interrupt.ts';
import { type ServedImage, serveJson, serveStatisticsJson } from './json.ts';
import type { Output } from './output.ts';
import { withPidFile } from './pid-file.ts';
import { fileOf } from './places.ts';
import { tellStarter } from './second-process.ts';
import { addressOf, type ServeOptions, tlsOf } from './serve-options.ts';

/*
 * The life of a server. What one step has opened, the same step closes, in the reverse order and whatever happened:
 *
 *   images → snapshots → listening → statistics on SIGUSR1 → pid file → the URI is told
 *   … until SIGTERM, SIGINT, or the last client has gone …
 *   no new clients; running requests end; flush → images closed
 *
 * A second SIGTERM or SIGINT ends the process at once. What was flushed before is safe then, as after a power loss.
 */

export async function serve(output: Output, files: readonly string[], options: ServeOptions): Promise<void> {
  const tls = await tlsOf(options);
  await withImages(files, options, async (images) => {
    const exports = await exportsOf(images, options);
    const idle = withResolver();
    await interruptible(async (signal) => {
      const server = await NbdServer.listen({
        exports,
        listen: addressOf(options),
        ...(tls && { tls }),
        ...(options.allowRemote && { allowRemote: true }),
        ...(options.allowPlaintext && { allowPlaintext: true }),
        ...(options.shared !== undefined && { maxConnections: options.shared }),
        ...(!options.quiet && { onError: ({ message }) => output.warning(message) }),
        ...(!options.persistent && { onIdle: idle.resolve }),
      });
      await closingServer(server, () =>
        withStatistics(output, server, images, () =>
          withPidFile(options.pidFile, async () => {
            announce(output, server, exports, options);
            await Promise.race([idle.promise, aborted(signal)]);
          }),
        ),
      );
    });
  });
}

function withResolver(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = (): void => undefined;
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

/** Opens all of them, and closes them in the reverse order. */
async function withImages(
  files: readonly string[],
  options: ServeOptions,
  use: (images: readonly ServedImage[]) => Promise<void>,
  opened: readonly ServedImage[] = [],
): Promise<void> {
  const [filename, ...others] = files;
  if (filename === undefined) return use(opened);
  const writable = !options.readOnly && options.snapshot === undefined;
  await withImage(filename, { ...options, writable }, (disk) =>
    withImages(others, options, use, [...opened, { filename, disk }]),
  );
}

/** A single file is the default export; several have names. */
async function exportsOf(images: readonly ServedImage[], options: ServeOptions): Promise<NbdExport[]> {
  const exports: NbdExport[] = [];
  const { readOnly = false, description, snapshot } = options;
  const about = description === undefined ? {} : { description };
  for (const [index, { filename, disk }] of images.entries()) {
    const name = options.export?.[index] ?? (images.length === 1 ? '' : fileOf(filename));
    const shown: Disk = snapshot === undefined ? disk : await disk.snapshots.open(snapshot);
    exports.push({ name, ...about, disk: shown, readOnly });
    if (options.withSnapshots) exports.push(...(await snapshotExports(name, disk)));
  }
  return exports;
}

/** `monday`, or `disk@monday` where the disk itself has a name. Opened snapshots close with their disk. */
async function snapshotExports(name: string, disk: Disk): Promise<NbdExport[]> {
  const exports: NbdExport[] = [];
  for (const { id, name: snapshot, createdAt } of await disk.snapshots.list()) {
    exports.push({
      name: name === '' ? snapshot : `${name}@${snapshot}`,
      description: `snapshot of ${createdAt.toISOString()}`,
      disk: await disk.snapshots.open(id),
      readOnly: true,
    });
  }
  return exports;
}

function announce(
  output: Output,
  server: NbdServer,
  exports: readonly NbdExport[],
  { json, quiet }: ServeOptions,
): void {
  const line = json ? JSON.stringify(serveJson(server.uri, exports)) : server.uri;
  if (!quiet) output.line(line);
  tellStarter(output.io.env, line);
}

/** Drains the server in the end; a failure of `use` matters more than one of the last flush. */
async function closingServer(server: NbdServer, use: () => Promise<void>): Promise<void> {
  try {
    await use();
  } catch (error) {
    await server.close().catch(() => undefined);
    throw error;
  }
  await server.close();
}

/** A line of JSON on stderr for every SIGUSR1. */
async function withStatistics(
  output: Output,
  server: NbdServer,
  images: readonly ServedImage[],
  use: () => Promise<void>,
): Promise<void> {
  const start = performance.now();
  const tell = (): void => {
    const seconds = (performance.now() - start) / 1000;
    output.aside(JSON.stringify(serveStatisticsJson(server.uri, seconds, server.stats(), images)));
  };
  process.on('SIGUSR1', tell);
  try {
    await use();
  } finally {
    process.off('SIGUSR1', tell);
  }
}
