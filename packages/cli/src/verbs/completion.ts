import { Argument, type Command } from 'commander';
import { complete } from '../completion.ts';
import { completionScript, type Shell, shells } from '../completion-script.ts';
import type { Session } from '../session.ts';

export function addCompletion(program: Command, { output }: Session): void {
  program
    .command('completion')
    .description('print what a shell has to read in order to complete verbs, options and their values')
    .addArgument(new Argument('<shell>', 'the shell').choices(shells))
    .action(async (shell: Shell) => output.line(await completionScript(shell)));
  // What those scripts call.
  program
    .command('complete', { hidden: true })
    .description('say what can follow')
    .argument('[words...]', 'behind --: what is typed so far')
    .action((words: string[]) => output.line(complete(program, words)));
}
