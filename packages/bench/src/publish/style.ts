/*
 * How the page looks, and the few lines of script that it can do without: they show what is pointed at, or focused, in a
 * box beside it, where without them the browser's own tooltip does.
 */

export const style = `
:root {
  color-scheme: light dark;
  --page: #fcfcfb; --ink: #1d1f21; --faint: #5c6166; --rule: #d9dcdf; --panel: #ffffff; --link: #0b57a4;
  --c0: #0072b2; --c1: #c25400; --c2: #007a5a; --c3: #9a3d7d; --c4: #6f6300; --c5: #a3243b; --c6: #444;
  --ideal: #d8f0de; --good: #e8f5d5; --ok: #fdf3cf; --poor: #fde0cb; --very-poor: #f9d0d0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16181a; --ink: #e6e8ea; --faint: #a4abb2; --rule: #373c41; --panel: #1e2124; --link: #7db8f0;
    --c0: #56b4e9; --c1: #f0924a; --c2: #3fc79a; --c3: #dc8fc2; --c4: #d8c94a; --c5: #f08a9b; --c6: #bbb;
    --ideal: #1d4a2a; --good: #36491c; --ok: #514413; --poor: #5a3317; --very-poor: #5c2323;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 0 0 0.25rem; }
a { color: var(--link); }
p { max-width: 46rem; }
.about, .caption, .legend { color: var(--faint); font-size: 0.9rem; }
.wide { overflow-x: auto; }
.trend { margin-bottom: 1rem; } .trend th:first-child { min-width: 11rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--rule); padding: 0.3rem 0.6rem; text-align: left; vertical-align: top; }
td { white-space: nowrap; }
.matrix td { white-space: normal; }
.number { text-align: right; }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; font-size: 0.9rem; }
.matrix td { min-width: 6.5rem; }
.matrix th[scope=row], .matrix thead th:first-child { position: sticky; left: 0; background: var(--page); }
.matrix a { color: inherit; display: block; }
.matrix small, .matrix span { display: block; }
.ideal { background: var(--ideal); } .good { background: var(--good); } .ok { background: var(--ok); }
.poor { background: var(--poor); } .very-poor { background: var(--very-poor); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: 0.75rem; border: 1px solid var(--rule); border-radius: 0.4rem; background: var(--panel); min-width: 0; }
.chart { width: 100%; height: auto; display: block; overflow: visible; }
.chart text { fill: var(--ink); font-size: 12px; }
.chart .tick { fill: var(--faint); }
.grid { stroke: var(--rule); }
.line { fill: none; stroke: currentColor; stroke-width: 2; }
.interval { stroke: currentColor; stroke-width: 1; opacity: 0.6; }
.series { color: var(--c6); fill: currentColor; }
.s0 { color: var(--c0); } .s1 { color: var(--c1); } .s2 { color: var(--c2); } .s3 { color: var(--c3); } .s4 { color: var(--c4); } .s5 { color: var(--c5); }
.s1 .line { stroke-dasharray: 7 3; } .s2 .line { stroke-dasharray: 2 3; } .s3 .line { stroke-dasharray: 9 3 2 3; }
.original circle, .original rect, .original polygon { fill: var(--panel); stroke: currentColor; stroke-width: 2; }
.original .line { stroke-width: 1.5; opacity: 0.8; stroke-dasharray: 3 4; }
.part { fill: var(--c0); stroke: var(--panel); stroke-width: 0.5; }
.p1 { fill: var(--c1); } .p2 { fill: var(--c2); } .p3 { fill: var(--c3); } .p4 { fill: var(--c4); } .p5 { fill: var(--c5); }
.p6 { fill: var(--c0); opacity: 0.55; } .p7 { fill: var(--c1); opacity: 0.55; } .p8 { fill: var(--c2); opacity: 0.55; }
.p9 { fill: var(--c3); opacity: 0.55; } .p10 { fill: var(--c4); opacity: 0.55; } .p11 { fill: var(--c5); opacity: 0.55; } .p12 { fill: var(--rule); }
.key { white-space: nowrap; margin-right: 0.8rem; }
.key svg { width: 1rem; height: 1rem; vertical-align: -0.15rem; margin-right: 0.3rem; }
.mark:focus, .part:focus, a:focus-visible, summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.evidence:target { outline: 3px solid var(--link); outline-offset: 4px; }
.evidence { padding: 0.75rem; border: 1px solid var(--rule); border-radius: 0.4rem; background: var(--panel); scroll-margin-top: 1rem; }
.evidence ul { margin: 0; padding-left: 1.2rem; font-variant-numeric: tabular-nums; }
.goal { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
#tip { position: fixed; left: 0; top: 0; max-width: 18rem; padding: 0.3rem 0.5rem; border: 1px solid var(--rule); border-radius: 0.3rem;
  background: var(--panel); color: var(--ink); font-size: 0.85rem; pointer-events: none; }
#tip[hidden] { display: none; }
@media (max-width: 34rem) { .chart text { font-size: 17px; } .matrix th[scope=row] { max-width: 8rem; font-size: 0.9rem; } }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .charts, .goal { display: block; }
  figure, .evidence, tr { break-inside: avoid; }
  figure, .evidence { margin-bottom: 1rem; }
  td { white-space: normal; }
  #tip, nav { display: none; }
}
`;

export const script = `
const tip = document.getElementById('tip');
const show = (event) => {
  const mark = event.target.closest('.mark, .part[tabindex]');
  tip.hidden = mark === null;
  if (mark === null) return;
  tip.textContent = mark.getAttribute('aria-label');
  const at = mark.getBoundingClientRect();
  const left = Math.min(at.right + 8, innerWidth - tip.offsetWidth - 8);
  const top = Math.min(at.bottom + 8, innerHeight - tip.offsetHeight - 8);
  tip.style.transform = 'translate(' + Math.max(8, left) + 'px,' + Math.max(8, top) + 'px)';
};
for (const kind of ['pointerover', 'focusin']) document.addEventListener(kind, show);
document.addEventListener('keydown', (event) => { if (event.key === 'Escape') tip.hidden = true; });
`;
