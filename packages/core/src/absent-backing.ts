import { Disk } from './disk.ts';
import type { Backing, BackingReference } from './driver.ts';
import { CowlabError } from './errors.ts';
import { raw, RawImage } from './raw.ts';
import type { Storage } from './storage.ts';

/** Large enough that nothing lies past its end, where it would read as zeros. */
const ABSENT_BYTES: number = 2 ** 52;

/** The file of a backing that nobody has opened: asked for its bytes, it says that they are unknown. */
class AbsentStorage implements Storage {
  readonly name: string;
  readonly readOnly = true;
  readonly #missing: () => never;

  constructor(from: string, { file }: BackingReference) {
    this.name = file;
    this.#missing = () => {
      const problem = `its backing file ${file} was not opened`;
      const data = { file: from, field: 'backing file', value: file };
      throw new CowlabError('ERR_BACKING_MISSING', `${from}: ${problem}`, data);
    };
  }

  size(): number {
    return ABSENT_BYTES;
  }

  read(): void {
    this.#missing();
  }

  write(): void {
    this.#missing();
  }

  zero(): void {
    this.#missing();
  }

  discard(): void {
    this.#missing();
  }

  allocate(): void {
    this.#missing();
  }

  truncate(): void {
    this.#missing();
  }

  status(_offset: number, length: number): { data: boolean; length: number } {
    return { data: true, length };
  }

  flush(): void {
    // There is nothing that could be lost.
  }

  lock(): void {
    // Nobody is kept from a file that is not open.
  }

  close(): void {
    // Nothing was opened.
  }
}

/** Stands for the backing that the image `from` names, without having opened it; nothing can be read from it. */
export function absentBacking(from: string, reference: BackingReference): Backing {
  return new Disk(raw, new RawImage(new AbsentStorage(from, reference)), reference.file, true);
}
