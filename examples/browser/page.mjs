// What a person sees of a search: a card a candidate, filled as the worker tells of it.

const SIDE = 64;
const STEPS = 18;
const form = document.querySelector("form");
const button = form.querySelector("button");
const told = document.querySelector("#told");
const grid = document.querySelector("#candidates");
let cards = new Map();

function tell(text, failed = false) {
  told.textContent = text;
  told.classList.toggle("failed", failed);
}

function card(candidate) {
  const figure = document.createElement("figure");
  const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  const progress = Object.assign(document.createElement("progress"), { max: STEPS, value: 0 });
  const caption = document.createElement("figcaption");
  figure.append(canvas, progress, caption);
  grid.append(figure);
  const made = { figure, canvas, progress, answers: new Map(), caption };
  cards.set(candidate, made);
  return made;
}

function paint({ canvas }, pixels) {
  const image = new ImageData(SIDE, SIDE);
  for (let i = 0; i < SIDE * SIDE; i++) {
    image.data.set(pixels.subarray(3 * i, 3 * i + 3), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function caption({ caption, answers }) {
  caption.replaceChildren(
    ...[...answers].map(([question, { answer, yes, step }]) => {
      const line = document.createElement("div");
      const word = Object.assign(document.createElement("b"), { textContent: answer, className: answer });
      line.append(`${question} `, word, ` ${yes.toFixed(2)}, step ${step}`);
      return line;
    }),
  );
}

const on = {
  ready() {
    tell("Ready.");
    button.disabled = false;
  },
  failed({ text }) {
    tell(text, true);
    button.disabled = false;
  },
  started: ({ candidate }) => card(candidate),
  stepped({ candidate, step }) {
    cards.get(candidate).progress.value = step;
  },
  shown: ({ candidate, pixels }) => paint(cards.get(candidate), pixels),
  judged({ candidate, question, answer, yes, step }) {
    const made = cards.get(candidate);
    made.answers.set(question, { answer, yes, step });
    caption(made);
  },
  rejected: ({ candidate }) => cards.get(candidate).figure.classList.add("rejected"),
  resumed: ({ candidate }) => cards.get(candidate).figure.classList.remove("rejected"),
  chosen: ({ candidate }) => cards.get(candidate).figure.classList.add("chosen"),
  done({ steps, decodes, questions, seconds }) {
    tell(`${seconds.toFixed(1)} s: ${steps} steps, ${decodes} decodes, ${questions} questions.`);
    button.disabled = false;
  },
};

const worker = new Worker("worker.mjs", { type: "module" });
worker.onmessage = ({ data }) => on[data.event](data);
worker.onerror = (error) => tell(error.message ?? "the worker failed", true);

form.addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  const { prompt, strategy, candidates, seed } = Object.fromEntries(new FormData(form));
  cards = new Map();
  grid.replaceChildren();
  tell("Drawing …");
  button.disabled = true;
  worker.postMessage({ prompt, strategy, candidates: Number(candidates), seed: BigInt(seed) });
});
