// A victim that acknowledges what it has not handed over: its second argument says how. It must be found out.

import { readdir, readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { runVictim } from '@cowlab/conformance/victim';
import { MemoryFolder } from '@cowlab/core';
import { subjectsOf } from '../dist/subjects.js';

/** A driver whose flush does nothing: what it has changed is in the memory of the process until it closes. */
function flushingNothing(driver) {
  const deceiving = (image) =>
    new Proxy(image, {
      get(target, key) {
        if (key === 'flush') return () => undefined;
        const member = Reflect.get(target, key, target);
        return typeof member === 'function' ? member.bind(target) : member;
      },
    });
  return {
    ...driver,
    open: async (folder, file, context) => deceiving(await driver.open(folder, file, context)),
  };
}

/** A storage that keeps everything in the memory of the process. */
async function copyInMemory(file) {
  const folder = new MemoryFolder();
  for (const entry of await readdir(dirname(file), { withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const storage = await folder.create(entry.name);
    await storage.write(0, await readFile(join(dirname(file), entry.name)));
    await storage.close();
  }
  return { folder, file: basename(file) };
}

const [json, deceit] = process.argv.slice(2);
const order = JSON.parse(json);
const { driver } = subjectsOf(order.driver)[0];
if (deceit === 'driver') await runVictim(flushingNothing(driver), order);
else await runVictim(driver, order, await copyInMemory(order.file));
