import assert from 'node:assert/strict';
import { assertCoded, assertSameBytes, failsWith, failureOf } from '../expect.ts';
import { type Lab, mainFile } from '../lab.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';

/** A closed image with data (and snapshots); gives back the bytes of all its files. */
async function makeVictim(lab: Lab): Promise<Map<string, Uint8Array>> {
  const twin = await lab.twin();
  await twin.write(0, 2 * lab.stride);
  if (hasSnapshots(lab.capabilities)) await twin.createSnapshot('kept');
  await twin.write(lab.stride + 100, 2 * lab.stride);
  await twin.disk.close();
  lab.release(twin);
  return lab.files();
}

/** Opens and uses a damaged image in every way that reads; whatever fails must fail with a code. */
async function use(lab: Lab, readOnly: boolean, what: string): Promise<void> {
  const opening = await failureOf(async () => {
    const disk = await lab.open({ readOnly });
    // An honest size is small here; a lie must not be followed into an allocation.
    const target = new Uint8Array(Math.min(disk.size, lab.size(6)));
    assertCoded(await failureOf(() => disk.read(0, target)), `${what}: read`);
    assertCoded(await failureOf(() => disk.check()), `${what}: check`);
    assertCoded(await failureOf(() => disk.snapshots.list()), `${what}: list`);
    assertCoded(await failureOf(() => disk.close()), `${what}: close`);
  });
  assertCoded(opening, `${what}: open`);
}

/** Tries to open `bytes` in the place of the main file; fails when a refused open has changed anything. */
async function openDamaged(lab: Lab, bytes: Uint8Array, what: string): Promise<void> {
  await lab.replaceFile(mainFile, bytes);
  const refused = await failureOf(async () => (await lab.open()).close());
  if (refused !== undefined) {
    const after = (await lab.files()).get(mainFile) ?? new Uint8Array(0);
    assertSameBytes(after, bytes, `${what}: the file after a refused open`);
  }
  await lab.replaceFile(mainFile, bytes);
  await use(lab, true, what);
}

const scenarios: readonly Scenario[] = [
  {
    name: 'a truncated image is refused or read as far as it goes, and a refused one is not modified',
    async run(lab) {
      const whole = (await makeVictim(lab)).get(mainFile) ?? new Uint8Array(0);
      const lengths = [0, 1, 3, 4, 64, 100, 511, 512, 513, 1024, 4096, 65_536, whole.length - 512];
      for (const length of lengths.filter((each) => each >= 0 && each < whole.length)) {
        await openDamaged(lab, whole.slice(0, length), `cut to ${length} bytes`);
      }
      if (!lab.hasMagic) return;
      for (const length of [0, 3, 100]) {
        await lab.replaceFile(mainFile, whole.slice(0, length));
        await failsWith(['ERR_CORRUPT', 'ERR_UNSUPPORTED', 'ERR_UNKNOWN_FORMAT'], `${length} bytes`, () =>
          lab.open(),
        );
      }
    },
  },
  {
    name: 'a file of another kind is refused, and not modified',
    async run(lab) {
      if (!lab.hasMagic) return;
      const whole = (await makeVictim(lab)).get(mainFile) ?? new Uint8Array(0);
      const wrong = whole.slice();
      wrong.fill(0x58, 0, 4);
      for (const bytes of [wrong, new Uint8Array(whole.length), new Uint8Array(8192).fill(0x41)]) {
        await lab.replaceFile(mainFile, bytes);
        const codes = ['ERR_CORRUPT', 'ERR_UNSUPPORTED', 'ERR_UNKNOWN_FORMAT'] as const;
        await failsWith(codes, 'a wrong magic number', () => lab.open());
        const after = (await lab.files()).get(mainFile) ?? new Uint8Array(0);
        assertSameBytes(after, bytes, 'the file after a refused open');
      }
    },
  },
  {
    name: 'a version of the far future is refused',
    async run(lab) {
      if (!lab.hasMagic) return;
      const whole = (await makeVictim(lab)).get(mainFile) ?? new Uint8Array(0);
      const future = whole.slice();
      future.fill(0xff, 4, 8);
      await openDamaged(lab, future, 'version');
      await lab.replaceFile(mainFile, future);
      const codes = ['ERR_CORRUPT', 'ERR_UNSUPPORTED', 'ERR_UNKNOWN_FORMAT'] as const;
      await failsWith(codes, 'version', () => lab.open());
    },
  },
  {
    name: 'flipped bits and wild numbers end in a code, not in a crash',
    place: 'memory',
    async run(lab) {
      const files = await makeVictim(lab);
      const names = [...files.keys()];
      for (let round = 0; round < 60; round++) {
        const name = lab.random.pick(names);
        const bytes = (files.get(name) ?? new Uint8Array(0)).slice();
        // Metadata lies near the front in most formats: half of the damage goes there.
        const reach = round % 2 === 0 ? Math.min(bytes.length, 1024) : bytes.length;
        const at = lab.random.below(Math.max(1, reach - 8));
        const wild = lab.random.pick([
          [0xff],
          [0x80],
          [0xff, 0xff, 0xff, 0xff],
          [0x7f, 0xff],
          [1],
          [0, 0, 0, 0],
        ]);
        bytes.set(wild.slice(0, bytes.length - at), at);
        await lab.replaceFile(name, bytes);
        await use(lab, round % 3 !== 0, `${name} with ${wild.join(' ')} at ${at}`);
        for (const [each, original] of files) await lab.replaceFile(each, original);
      }
    },
  },
  {
    name: 'sizes that cannot be are refused when an image is made, and leave no file',
    async run(lab) {
      const { sizeMultiple, maxSize } = lab.capabilities;
      const sizes = [0, -1, 1.5, Number.NaN];
      if (sizeMultiple > 1) sizes.push(sizeMultiple + 1);
      if (maxSize + sizeMultiple <= Number.MAX_SAFE_INTEGER) sizes.push(maxSize + sizeMultiple);
      for (const size of sizes) {
        await failsWith('ERR_INVALID_OPTION', `create with size ${size}`, () => lab.create({ size }));
        assert.deepEqual(await lab.folder.list(), []);
      }
    },
  },
];

export const damage: ScenarioGroup = { name: 'damaged images', scenarios };
