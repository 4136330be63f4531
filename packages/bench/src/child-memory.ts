import { openSession } from './lab.ts';
import { chooseSubjects, loadSubject, yardstick } from './formats.ts';

/*
 * A program: opens the image of one cell, reads once, and prints how many bytes of memory its process holds.
 * Arguments: the format's name, the cell's folder, and the module of a driver from elsewhere. Needs --expose-gc, so that garbage is not counted.
 */

const [format = '', folder = '', module = ''] = process.argv.slice(2);
const [chosen = yardstick] = format === yardstick.name || module !== '' ? [] : chooseSubjects([format]);
const subject = module === '' ? chosen : await loadSubject(module);
const { disk } = await openSession(subject, folder);
await disk.read(Math.floor(disk.size / 8192) * 4096, new Uint8Array(4096));
globalThis.gc?.();
globalThis.gc?.();
process.stdout.write(`${process.memoryUsage.rss()}\n`);
await disk.close();
