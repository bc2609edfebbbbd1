// Draws beside the page, which stays alive meanwhile.

import { open } from "./maquette.mjs";

const fetched = async (url) => {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return new Uint8Array(await answer.arrayBuffer());
};
const heard = (event) => postMessage(event);
const shown = (candidate, step, pixels) => postMessage({ event: "shown", candidate, step, pixels }, [pixels.buffer]);

let model;
try {
  const wasm = await fetched("target/wasm32-unknown-unknown/release/maquette_browser.wasm");
  model = await open(wasm, (name) => fetched(`../demo/weights/${name}`), heard, shown);
  postMessage({ event: "ready" });
} catch (error) {
  postMessage({ event: "failed", text: `${error.message}. Was the module built?` });
}

onmessage = ({ data: { prompt, strategy, candidates, seed } }) => {
  const begin = performance.now();
  try {
    const drawn = model.draw(prompt, strategy, candidates, seed);
    postMessage({ event: "done", ...drawn, seconds: (performance.now() - begin) / 1000 });
  } catch (error) {
    postMessage({ event: "failed", text: error.message });
  }
};
