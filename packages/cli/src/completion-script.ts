/*
 * The scripts come from @bomb.sh/tab. That for bash is amended, so that it works without the package bash-completion,
 * can be read twice, hands words over as they are instead of having them expanded, offers file names, and
 * takes into account that bash itself completes only what is behind the last `=`.
 */

export const shells = ['bash', 'zsh', 'fish', 'powershell'] as const;
export type Shell = (typeof shells)[number];

const WORDS = `if ! declare -F _get_comp_words_by_ref >/dev/null; then
_get_comp_words_by_ref() {
    local line="\${COMP_LINE:0:COMP_POINT}"
    read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=('')
    cword=$((\${#words[@]} - 1))
    cur="\${words[cword]}"
    prev="\${words[cword - 1]:-}"
}
fi

`;

const BEHIND_EQUALS = `
    if [[ "$cur" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
        local start="\${cur%"\${cur##*=}"}"
        COMPREPLY=("\${COMPREPLY[@]#"$start"}")
    fi
}
`;

const AMENDMENTS: readonly (readonly [string, string])[] = [
  ['complete -F __cowlab_complete', 'complete -o default -F __cowlab_complete'],
  ['cowlab complete -- ${words[@]:1}', 'cowlab complete --$(printf \' %q\' "${words[@]:1}")'],
  ['-- "$cur") )\n}\n', `-- "$cur") )${BEHIND_EQUALS}`],
];

/** The text that a shell has to read in order to complete `cowlab`. */
export async function completionScript(shell: Shell): Promise<string> {
  const { script } = await import('@bomb.sh/tab');
  const text = printedBy(() => script(shell, 'cowlab', 'cowlab'));
  return shell === 'bash' ? amended(text) : text;
}

/** It prints, and has no other way to give its text away. */
function printedBy(print: () => void): string {
  const { log } = console;
  const lines: string[] = [];
  console.log = (line: string) => void lines.push(line);
  try {
    print();
  } finally {
    console.log = log;
  }
  return lines.join('\n');
}

function amended(text: string): string {
  let result = WORDS + text.replaceAll(/^readonly /gm, '');
  for (const [before, after] of AMENDMENTS) {
    if (!result.includes(before)) throw new Error(`the script for bash has no ${JSON.stringify(before)}`);
    result = result.replace(before, () => after);
  }
  return result;
}
