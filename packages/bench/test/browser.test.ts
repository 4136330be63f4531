import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { htmlReport } from '../src/publish/html.ts';
import { scratch } from './lab.ts';
import { publishedResults, resultsWithQemu } from './samples.ts';

/* The page in a real browser, Debian's. Elsewhere the tests say that it is missing; CI has it. */

const executablePath = '/usr/bin/chromium';
const flags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const at = scratch();
const results = publishedResults();

describe.skipIf(!existsSync(executablePath) && !process.env['CI'])('the report in chromium', () => {
  let browser: Browser;
  let address: string;
  const complaints: string[] = [];

  let besideQemu: string;

  beforeAll(async () => {
    for (const [name, page] of [
      ['report.html', htmlReport(results)],
      ['beside-qemu.html', htmlReport(resultsWithQemu())],
    ] as const) {
      await writeFile(at(name), page);
    }
    address = pathToFileURL(at('report.html')).href;
    besideQemu = pathToFileURL(at('beside-qemu.html')).href;
    browser = await chromium.launch({ executablePath, args: flags });
  }, 60_000);

  afterAll(() => browser.close());

  async function open(
    width: number,
    options: { javaScriptEnabled?: boolean } = {},
    place: string = address,
  ): Promise<Page> {
    const context = await browser.newContext({ viewport: { width, height: 900 }, ...options });
    const page = await context.newPage();
    page.on('console', (message) => void complaints.push(message.text()));
    page.on('pageerror', (error) => void complaints.push(error.message));
    await page.goto(place);
    return page;
  }

  it.each([1280, 400])(
    'fits %d pixels, with every chart, and the console has nothing to say',
    async (width) => {
      const page = await open(width);
      expect(await page.evaluate('document.documentElement.scrollWidth')).toBeLessThanOrEqual(width);
      const charts = page.locator('figure svg.chart');
      expect(await charts.count()).toBe(17);
      for (const chart of await charts.all()) {
        const box = (await chart.boundingBox())!;
        expect(box.width).toBeGreaterThan(width === 400 ? 250 : 400);
        expect(box.height).toBeGreaterThan(100);
      }
      expect(complaints).toEqual([]);
      await page.context().close();
    },
  );

  it('shows the matrix of verdicts first, every cell a click away from its evidence', async () => {
    const page = await open(1280);
    const cells = page.locator('.matrix td a');
    expect(await cells.count()).toBe(results.goals.length);
    await cells.nth(4).click();
    const shown = page.locator('.evidence:target');
    expect(await shown.count()).toBe(1);
    expect((await shown.boundingBox())!.y).toBeGreaterThanOrEqual(0);
    await page.context().close();
  });

  it.each([1280, 400])(
    'has room for QEMU’s columns in the matrix at %d pixels, each cell with its evidence',
    async (width) => {
      const page = await open(width, {}, besideQemu);
      const goals = resultsWithQemu().goals;
      expect(await page.evaluate('document.documentElement.scrollWidth')).toBeLessThanOrEqual(width);
      const cells = page.locator('.matrix td a');
      expect(await cells.count()).toBe(goals.length);
      // At 1280 pixels all of it is seen at once; at 400 the columns move under the goals, which stay.
      const row = page.locator('.matrix tbody th').first();
      const last = page.locator('.matrix tbody tr').first().locator('td').last();
      await last.scrollIntoViewIfNeeded();
      const [heading, cell] = [(await row.boundingBox())!, (await last.boundingBox())!];
      expect(heading.x).toBeGreaterThanOrEqual(0);
      expect(cell.x).toBeGreaterThanOrEqual(heading.x + heading.width - 1);
      expect(cell.x + cell.width).toBeLessThanOrEqual(width);
      // No word of a cell is wider than the cell.
      const torn =
        "[...document.querySelectorAll('.matrix td')].filter((td) => td.scrollWidth > td.clientWidth)";
      expect(await page.evaluate(`${torn}.length`)).toBe(0);
      for (const format of ['qemu-qcow2', 'qemu-qcow2-chain', 'qemu-vmdk-chain']) {
        await page.locator(`.matrix a[href="#G3-${format}"]`).click();
        expect(await page.locator('.evidence:target').textContent()).toContain(format);
      }
      expect(await page.locator('#trends').isVisible()).toBe(true);
      // Labels of bars are long now, and lie within their figures all the same.
      const cut =
        "[...document.querySelectorAll('figure')].flatMap((figure) => [...figure.querySelectorAll('text')].filter(" +
        '(text) => text.getBoundingClientRect().left < figure.getBoundingClientRect().left))';
      expect(await page.evaluate(`${cut}.length`)).toBe(0);
      expect(complaints).toEqual([]);
      await page.context().close();
    },
  );

  it('draws an original as ours of it is drawn, hollow', async () => {
    const page = await open(1280, {}, besideQemu);
    const looks = (which: string): Promise<unknown> =>
      page.evaluate(
        `[...document.querySelectorAll('#reads svg.chart ${which}')].map((each) => getComputedStyle(each).color)`,
      );
    expect(await looks('.series.original')).toEqual(
      ((await looks('.series:not(.original)')) as string[]).slice(1, 3),
    );
    await page.context().close();
  });

  it('says what is pointed at, and what is focused by keyboard', async () => {
    const page = await open(1280);
    const tip = page.locator('#tip');
    const mark = page.locator('#reads .mark').first();
    const words = (await mark.getAttribute('aria-label'))!;
    expect(await tip.isHidden()).toBe(true);
    await mark.hover();
    expect(await tip.textContent()).toBe(words);
    await page.keyboard.press('Escape');
    expect(await tip.isHidden()).toBe(true);
    await mark.focus();
    expect(await tip.textContent()).toBe(words);
    await page.keyboard.press('Tab');
    expect(await tip.textContent()).not.toBe(words);
    expect(await tip.isVisible()).toBe(true);
    await page.context().close();
  });

  it('needs no script: charts, links and tables are there without', async () => {
    const page = await open(1280, { javaScriptEnabled: false });
    expect(await page.locator('figure svg.chart .mark title').count()).toBeGreaterThan(20);
    const table = page.locator('#reads details table');
    expect(await table.isVisible()).toBe(false);
    await page.locator('#reads summary').click();
    expect(await table.isVisible()).toBe(true);
    await page.context().close();
  });

  it('has colours of its own in the dark', async () => {
    const page = await open(1280);
    const background = (): Promise<unknown> =>
      page.evaluate('getComputedStyle(document.body).backgroundColor');
    const light = await background();
    await page.emulateMedia({ colorScheme: 'dark' });
    expect(await background()).not.toBe(light);
    await page.context().close();
  });

  it('prints, one chart below the other', async () => {
    const page = await open(1280);
    await page.emulateMedia({ media: 'print' });
    expect(await page.evaluate("getComputedStyle(document.querySelector('.charts')).display")).toBe('block');
    const pdf = await page.pdf({ format: 'A4' });
    expect(pdf.length).toBeGreaterThan(20_000);
    await page.context().close();
  });
});
