import fs from 'node:fs';

/** Where figures go in a README: what stands between the two marks is replaced, everything else stays. */
export interface FiguresPlace {
  readonly readme: string;
  /** The command that writes them; the first mark names it. */
  readonly command: string;
}

const END = '<!-- end of figures -->';

export function putFigures({ readme, command }: FiguresPlace, figures: string): void {
  const mark = `<!-- figures: ${command} writes what follows -->`;
  const text = fs.readFileSync(readme, 'utf8');
  const begin = text.indexOf(mark);
  const end = text.indexOf(END, begin);
  if (begin < 0 || end < begin) throw new Error(`${readme}: no place for figures: ${mark} … ${END}`);
  fs.writeFileSync(readme, `${text.slice(0, begin + mark.length)}\n\n${figures}\n\n${text.slice(end)}`);
}
