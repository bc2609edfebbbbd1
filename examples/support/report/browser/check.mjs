// Opens a report of generate, geneval or compare in a headless browser without network, clicks through it, and saves
// screenshots.
//
//   npm install && node check.mjs REPORT.html OUT_FOLDER [CHROMIUM]
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [file, out, executablePath = "/usr/bin/chromium"] = process.argv.slice(2);
mkdirSync(out, { recursive: true });
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"],
});
const context = await browser.newContext({ offline: true, viewport: { width: 1280, height: 900 } });
const page = await context.newPage();
const wrong = [];
page.on("pageerror", e => wrong.push(String(e)));
page.on("console", m => m.type() === "error" && wrong.push(m.text()));
page.on("request", r => !/^(file|data):/.test(r.url()) && wrong.push("asked for " + r.url()));
await page.goto(pathToFileURL(resolve(file)).href);

function group(lives) {
  const rows = new Map();
  for (const life of lives) rows.set(life.row, [...(rows.get(life.row) ?? []), life]);
  return rows;
}

const data = await page.evaluate(() => JSON.parse(document.getElementById("data").textContent));

// The page of evaluations: every row in both tables and on the chart, sorted and found by a click.
async function evaluations() {
  const shares = page.locator("#shares tbody tr"), chart = page.locator("#gain svg .mark");
  assert.equal(await shares.count(), data.rows.length);
  assert.equal(await page.locator("#cost tbody tr").count(), data.rows.length);
  if (data.rows.length > 1) {
    await page.locator("#shares th button", { hasText: "overall" }).click();
    const sorted = await shares.evaluateAll(all => all.map(e => e.dataset.label));
    const means = sorted.map(label => data.rows.find(row => row.label === label).overall.mean);
    assert.deepEqual(means, [...means].sort((a, b) => b - a));
  }
  const last = data.rows.at(-1);
  await page.locator(`#cost tbody tr[data-label="${last.label}"]`).click();
  const priced = data.rows.filter(row => row.cost !== null);
  if (priced.length > 1) {
    assert.equal(await chart.count(), priced.length);
    assert.ok((await page.locator("#picked").innerText()).startsWith(last.label + ": overall"));
    await chart.first().locator("circle").click();
    const label = await chart.first().getAttribute("data-label");
    assert.equal(await page.locator("#shares tr.picked").getAttribute("data-label"), label);
  }
  assert.equal(await page.locator("#scaling svg .mark").count(), data.scaling.length);
  await page.screenshot({ path: `${out}/evaluation.png`, fullPage: true });
  assert.deepEqual(wrong, []);
  await browser.close();
  console.log(`${file}: ${data.rows.length} rows clicked through, screenshot in ${out}`);
  process.exit();
}
if (data.rows) await evaluations();
assert.equal(await page.locator("section").count(), data.pictures.length);
for (const [i, picture] of data.pictures.entries()) {
  const section = page.locator("section").nth(i);
  const looks = section.locator("button.look");
  assert.equal(await looks.count(), picture.lives.reduce((n, life) => n + life.sights.length, 0));
  // A look opens, and says what was answered.
  const first = picture.lives.find(life => life.sights.some(s => s.verdicts.length));
  if (first) {
    const sight = first.sights.find(s => s.verdicts.length);
    await section.locator(`button.look[data-key="${first.id}-${sight.step}"]`).click();
    const said = await section.locator(".panel").innerText();
    assert.ok(said.includes(`Candidate #${first.id}, step ${sight.step}`), said);
    for (const v of sight.verdicts) assert.ok(said.includes(v.question), said);
  }
  // Dropped candidates can be hidden, and come back.
  const gone = l => l.rejected_at !== null && !l.winner && l.line_until === null;
  const byRow = group(picture.lives);
  const dropped = [...byRow.values()].filter(lives => lives.every(gone)).length;
  const rows = section.locator(".lanes > .lane");
  const seen = async () => rows.evaluateAll(all => all.filter(e => e.offsetParent !== null).length);
  const before = await seen();
  await section.locator("input[type=checkbox]").check();
  assert.equal(before - (await seen()), 2 * dropped);
  if (i === 0) await page.screenshot({ path: `${out}/survivors.png`, fullPage: true });
  await section.locator("input[type=checkbox]").uncheck();
  assert.equal(await seen(), before);
}
await page.screenshot({ path: `${out}/report.png`, fullPage: true });
assert.deepEqual(wrong, []);
await browser.close();
console.log(`${file}: ${data.pictures.length} pictures clicked through, screenshots in ${out}`);
