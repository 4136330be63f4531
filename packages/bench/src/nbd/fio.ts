import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { RequestRow } from './schema.ts';

/*
 * The client: fio, one job on one connection. It spares itself what it does not need here (latencies, a map of what
 * it has been at, new bytes for every write): it has to be faster than what it measures.
 */

const run = promisify(execFile);

/** Beyond what a batch is to last: the client has stopped moving. */
const PATIENCE_MS = 30_000;

export type Batch = Pick<RequestRow, 'operation' | 'pattern' | 'requestBytes' | 'depth'>;

interface FioSide {
  readonly iops: number;
}

/** Requests a second during so many milliseconds. */
export async function fioPerSecond(
  socket: string,
  { operation, pattern, requestBytes, depth }: Batch,
  diskBytes: number,
  milliseconds: number,
): Promise<number> {
  const { stdout } = await run(
    'fio',
    [
      '--name=batch',
      '--ioengine=nbd',
      `--uri=nbd+unix:///?socket=${socket}`,
      `--rw=${pattern === 'random' ? `rand${operation}` : operation}`,
      `--bs=${requestBytes}`,
      `--iodepth=${depth}`,
      `--size=${diskBytes}`,
      '--time_based',
      `--runtime=${milliseconds}ms`,
      '--thread',
      '--norandommap',
      '--gtod_reduce=1',
      '--scramble_buffers=0',
      '--output-format=json',
    ],
    { maxBuffer: 16 * 1024 * 1024, timeout: milliseconds + PATIENCE_MS },
  );
  return iopsOf(stdout, operation);
}

function iopsOf(printed: string, operation: Batch['operation']): number {
  // What it has to say before it begins stands in front.
  const { jobs } = JSON.parse(printed.slice(printed.indexOf('{'))) as {
    jobs: [{ read: FioSide; write: FioSide; error: number }];
  };
  const [job] = jobs;
  const { iops } = job[operation];
  if (job.error !== 0 || !(iops > 0)) throw new Error(`fio: error ${job.error}, ${iops} requests a second`);
  return iops;
}
