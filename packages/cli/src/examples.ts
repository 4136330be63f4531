import type { Command } from 'commander';

/* What `--help` of a verb shows below its options. A test runs them. */

interface Example {
  readonly does: string;
  readonly command: string;
}

const example = (command: string, does: string): Example => ({ command, does });

export const examples: Readonly<Record<string, readonly Example[]>> = {
  create: [
    example('create -f qcow2 new.qcow2 10G', 'an empty disk'),
    example('create -f qcow2 -b base.qcow2 over.qcow2', 'one over a backing file; the size is that one’s'),
    example('create -f fvd -b disk.qcow2 --backing-snapshot monday clone.fvd', 'a clone of a snapshot'),
    example('create -f qcow2 -o help', 'what can be chosen with -o'),
  ],
  info: [
    example('info disk.qcow2', 'format, size, backing file, snapshots'),
    example('info --backing-chain --json top.qcow2', 'the image and all that is under it'),
    example('info nbd+unix:///?socket=disk.sock', 'an export of an NBD server'),
  ],
  check: [
    example('check disk.qcow2', 'status 0 clean, 2 corrupt, 3 leaks'),
    example('check -r all disk.qcow2', 'and repair'),
  ],
  snapshot: [
    example('snapshot -c friday disk.qcow2', 'keep the present state'),
    example('snapshot disk.qcow2', 'list them'),
    example('snapshot -a monday disk.qcow2', 'go back to one'),
    example('snapshot -r monday --as start disk.fvd', 'give one another name'),
    example('snapshot -d tuesday disk.qcow2', 'delete one'),
  ],
  convert: [
    example('convert -O qcow2 disk.raw copy.qcow2', 'another format'),
    example('convert -c -O qcow2 disk.raw small.qcow2', 'compressed'),
    example('convert -l monday -O raw disk.qcow2 monday.raw', 'a snapshot'),
    example('convert --with-snapshots -O fvd disk.qcow2 all.fvd', 'the disk with all snapshots'),
    example(
      'convert -n --from monday -l tuesday -O raw disk.fvd backup.raw',
      'what changed, into a copy of monday',
    ),
    example(
      'convert -n -p -O raw disk.qcow2 nbd+unix:///?socket=disk.sock',
      'into an export of an NBD server',
    ),
  ],
  compare: [
    example('compare disk.raw same.qcow2', 'status 0 the same, 1 different, 2 failed'),
    example('compare -s -q disk.raw same.qcow2', 'sizes, too, and only the status'),
  ],
  map: [
    example('map --json top.qcow2', 'where every part is kept'),
    example('map --start-offset 1M --max-length 64k disk.qcow2', 'a part of the disk'),
  ],
  diff: [
    example('diff --from monday --to tuesday disk.qcow2', 'what may differ between two snapshots'),
    example('diff --from monday --json disk.fvd', 'and the present state'),
  ],
  resize: [
    example('resize disk.fvd +1G', 'a larger disk'),
    example('resize --shrink disk.qcow2 16M', 'a smaller one; what is past its end is lost'),
  ],
  rebase: [
    example('rebase -b base.qcow2 top.qcow2', 'another backing file; the contents stay'),
    example("rebase -b '' top.qcow2", 'no backing file: everything becomes its own'),
    example('rebase -u -b moved.qcow2 -F qcow2 top.qcow2', 'only the name, for a file that has moved'),
  ],
  commit: [
    example('commit top.qcow2', 'into its backing file'),
    example('commit -d top.qcow2', 'and keep what it has'),
  ],
  measure: [
    example('measure -O qcow2 disk.raw', 'bytes that a copy needs'),
    example('measure -O fvd --size 100G', 'bytes of an empty disk'),
  ],
  amend: [
    example('amend -o lazy_refcounts=on disk.qcow2', 'switch something on'),
    example('amend -f qcow2 -o help', 'what can be changed'),
  ],
  compact: [
    example('compact disk.fvd', 'cut what is free at the end'),
    example('compact --move -p disk.fvd', 'and move data there'),
  ],
  serve: [
    example('serve -k disk.sock disk.fvd', 'for one client, on a Unix socket'),
    example('serve -t -p 10809 --pid-file disk.pid disk.qcow2', 'until SIGTERM, on TCP of this machine'),
    example('serve -r --with-snapshots -k disk.sock disk.qcow2', 'the disk, and each snapshot by its name'),
    example('serve -b 0.0.0.0 --allow-remote --tls-psk keys.psk disk.fvd', 'for other machines, with keys'),
  ],
  bench: [
    example('bench --profile quick', 'some minutes'),
    example('bench --formats fvd,qcow2 --out results', 'two formats; the report goes to a folder'),
  ],
  completion: [
    example(
      'completion bash > ~/.local/share/bash-completion/completions/cowlab',
      'bash, from the next shell on',
    ),
    example('completion zsh > ~/.zfunc/_cowlab', 'zsh, where ~/.zfunc is in $fpath'),
    example('completion fish > ~/.config/fish/completions/cowlab.fish', 'fish'),
  ],
};

/** Puts them below the help of every verb that has some. */
export function showExamples(program: Command): void {
  for (const verb of program.commands) {
    const all = examples[verb.name()] ?? [];
    const lines = all.map(({ command, does }) => `  # ${does}\n  cowlab ${command}`);
    if (lines.length > 0) verb.addHelpText('after', `\nExamples:\n${lines.join('\n')}`);
  }
}
