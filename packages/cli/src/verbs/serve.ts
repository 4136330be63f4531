import type { Command } from 'commander';
import { runInSecondProcess } from '../second-process.ts';
import { assertServes, type ServeOptions, withServeOptions } from '../serve-options.ts';
import { serve } from '../serving.ts';
import { type Session, withForceShare, withJson, withSource } from '../session.ts';

export function addServe(program: Command, session: Session): void {
  const { output } = session;
  const command = program
    .command('serve')
    .description(
      'let NBD clients (qemu, nbdcopy, nbdfuse, the kernel) use a disk; prints the URI when they can come',
    )
    .argument('<file...>', 'the images');
  withJson(withForceShare(withSource(withServeOptions(command)))).action(
    async (files: string[], options: ServeOptions) => {
      assertServes(files, options);
      if (!options.fork) return serve(output, files, options);
      const argv = session.argv.filter((each) => each !== '--fork');
      session.status = await runInSecondProcess(output, argv, options.quiet ?? false);
    },
  );
}
