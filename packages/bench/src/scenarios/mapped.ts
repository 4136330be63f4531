import type { Subject } from '../formats.ts';
import { createImage, openSession } from '../lab.ts';

/** An image in which every unit has a place and nothing is written: by the driver's own means, or place by place. */
export async function createMapped(subject: Subject, folder: string, imageBytes: number): Promise<void> {
  const preallocates = subject.driver.options.preallocation?.choices?.includes('metadata') === true;
  await createImage(subject, folder, imageBytes, preallocates ? { preallocation: 'metadata' } : {});
  if (preallocates) return;
  const { disk } = await openSession(subject, folder);
  const { image } = disk;
  const last = imageBytes - image.unitBytes;
  for (let offset = 0; offset < last; ) {
    const placement = await image.reserve(offset, last - offset);
    await image.commit(placement);
    offset += placement.length;
  }
  // A real write at the end makes the file as long as its places say.
  await disk.write(last, new Uint8Array(image.unitBytes).fill(1));
  await disk.close();
}
