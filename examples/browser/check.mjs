// Draws what a trace of `generate` tells, and compares codes and verdicts: `node check.mjs trace.json`.

import { readFile } from "node:fs/promises";
import { open } from "./maquette.mjs";

const here = (path) => new URL(path, import.meta.url);
const text = await readFile(process.argv[2], "utf8");
// Seeds are too large for a JavaScript number.
const { prompt, strategy, candidates, pictures } = JSON.parse(text.replace(/"seed":\s*(\d+)/g, '"seed": "$1"'));

let judged = [];
const wasm = await readFile(here("target/wasm32-unknown-unknown/release/maquette_browser.wasm"));
const read = (name) => readFile(here(`../demo/weights/${name}`));
const heard = (e) => {
  if (e.event === "judged") judged.push([e.question, e.step, e.answer, e.yes, e.no]);
};
const model = await open(wasm, read, heard, () => {});

for (const { seed, codes, cost, events } of pictures) {
  judged = [];
  const begin = performance.now();
  const drawn = model.draw(prompt, strategy, candidates, BigInt(seed));
  const seconds = (performance.now() - begin) / 1000;
  const want = events
    .filter((e) => e.event === "judged")
    .map((e) => [e.question, e.step, e.verdict.answer, e.verdict.p_yes, e.verdict.p_no]);
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  if (!same(drawn.codes, codes)) throw new Error(`seed ${seed}: codes ${drawn.codes}, not ${codes}`);
  for (const [i, verdict] of want.entries())
    if (!same(judged[i], verdict)) throw new Error(`seed ${seed}: verdict ${i} is ${judged[i]}, not ${verdict}`);
  if (judged.length !== want.length || drawn.steps !== cost.steps) throw new Error(`seed ${seed}: another search`);
  console.log(`seed ${seed}: ${codes.length} codes and ${want.length} verdicts are the same, ${seconds.toFixed(2)} s`);
}
