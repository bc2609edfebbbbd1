// The module and its models: one place for the page's worker and for the check.

/** What the module needs, in its order. */
export const FILES = [
  "show-o/config.json",
  "show-o/pytorch_model.safetensors",
  "show-o/vocab.txt",
  "magvitv2/config.json",
  "magvitv2/pytorch_model.safetensors",
  "judge/config.json",
  "judge/model.safetensors",
  "judge/vocab.txt",
];
export const STRATEGIES = ["plain", "best-of-n", "parm"];
const EVENTS = ["started", "stepped", "judged", "rejected", "resumed", "chosen"];
const QUESTIONS = ["outcome", "process", "clarity", "potential"];
const ANSWERS = ["yes", "no", "malformed"];

/**
 * Opens the models. `read` gives the bytes of a file of FILES; `heard` is told of every event of a search, `shown` of every
 * picture that is looked at.
 */
export async function open(wasm, read, heard, shown) {
  let told = "";
  const bytes = (at, len) => new Uint8Array(exports.memory.buffer, at, len);
  const page = {
    happened(event, candidate, step, question, answer, yes, no) {
      const judged = EVENTS[event] === "judged";
      const verdict = judged && { question: QUESTIONS[question], answer: ANSWERS[answer], yes, no };
      heard({ event: EVENTS[event], candidate, step, ...verdict });
    },
    shown(candidate, step, at, len) {
      shown(candidate, step, bytes(at, len).slice());
    },
    said(at, len) {
      told = new TextDecoder().decode(bytes(at, len));
    },
  };
  const { instance } = await WebAssembly.instantiate(wasm, { page });
  const exports = instance.exports;
  const done = (result) => {
    if (!result) throw new Error(told);
  };
  for (const [i, name] of FILES.entries()) {
    const data = await read(name);
    // The room is valid until the module reserves again.
    bytes(exports.file(i, data.length), data.length).set(data);
  }
  done(exports.open());
  return {
    /** Draws one picture; the seed is a BigInt. Gives its codes and what was spent. */
    draw(text, strategy, candidates, seed) {
      const data = new TextEncoder().encode(text);
      bytes(exports.prompt(data.length), data.length).set(data);
      done(exports.draw(STRATEGIES.indexOf(strategy), candidates, seed));
      const codes = Array.from({ length: 64 }, (_, i) => exports.code(i));
      const [steps, decodes, questions] = [0, 1, 2].map((i) => exports.spent(i));
      return { codes, steps, decodes, questions };
    },
  };
}
