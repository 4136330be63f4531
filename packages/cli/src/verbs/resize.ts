import type { Command } from 'commander';
import { invalidUse } from '../errors.ts';
import { withImage } from '../images.ts';
import { type Session, type SourceOptions, withSource } from '../session.ts';
import { parseSizeChange } from '../sizes.ts';

interface ResizeOptions extends SourceOptions {
  readonly shrink?: boolean;
  readonly quiet?: boolean;
}

export function addResize(program: Command, { output }: Session): void {
  const command = program
    .command('resize')
    .description('change the size of a disk; new bytes read as zeros')
    .argument('<file>', 'the image')
    .argument('<size>', 'the new size (10G), or the change (+1G, -512M)')
    .option('--shrink', 'agree to lose what lies past a smaller size')
    .option('-q, --quiet', 'say nothing');
  withSource(command).action(async (file: string, text: string, options: ResizeOptions) => {
    const { sign, bytes } = parseSizeChange(text);
    await withImage(file, { ...options, writable: true }, async (disk) => {
      const size = sign === undefined ? bytes : disk.size + (sign === '+' ? bytes : -bytes);
      if (!Number.isSafeInteger(size) || size <= 0) {
        throw invalidUse(file, `size: ${text} of ${disk.size} bytes leaves no disk of a possible size`);
      }
      if (size < disk.size && !options.shrink) {
        throw invalidUse(
          file,
          `size: ${size} bytes is less than now (${disk.size}); --shrink agrees to lose data`,
        );
      }
      await disk.resize(size);
    });
    if (!options.quiet) output.line('Image resized.');
  });
}

/** `-512M` at the end of `resize` is a size, as for qemu-img, and not options. */
export function protectNegativeSize(argv: readonly string[]): string[] {
  const last = argv.at(-1);
  const negative = argv[0] === 'resize' && last !== undefined && /^-\d/.test(last) && !argv.includes('--');
  return negative ? [...argv.slice(0, -1), '--', last] : [...argv];
}
