"""Labels what collect.py drew with the label detector; the world program turns its readings into marks and questions.

Predictions on the way are read too: one is clear when its reading is that of the finished picture. A state with rollouts is
hopeful when any of its ends, its picture's own among them, shows the prompt.
"""

import argparse
import json
import time

import torch

import detector
import magvit
from common import RUN, WEIGHTS, log, to_float, to_u8, world

args = argparse.ArgumentParser()
args.add_argument("name")
args.add_argument("--seed", type=int, default=1)
args.add_argument("--ends", action="store_true", help="read no predictions on the way: the recipes need none of them")
args = args.parse_args()
started = time.time()
out = RUN / "data" / args.name
saved = torch.load(out.with_suffix(".drawn"), weights_only=True)
texts, predictions, ends = saved["texts"], saved["predictions"], saved.get("ends")
tokenizer = magvit.load(WEIGHTS / "magvitv2/pytorch_model.safetensors")
reader = detector.load(WEIGHTS / "detectors/label.safetensors", "label")


def read(codes):
    return [s for c in codes.split(200) for s in detector.read(reader, to_float(to_u8(tokenizer.decode(c.long()))))]


def mark(seen, name, questions=0, prompts=texts):
    path = out.with_name(f"{args.name}-{name}.jsonl")
    with open(path, "w") as file:
        for text, s in zip(prompts, seen):
            file.write(json.dumps({"prompt": text, "seen": s}) + "\n")
    figures = world("score", "--readings", path, "--out", path.with_suffix(".marks"))
    marks = torch.tensor([int(x) for x in path.with_suffix(".marks").read_text().split()])
    if not questions:
        return figures, marks, None
    world("questions", "--readings", path, "--each", questions, "--seed", args.seed, "--out", path.with_suffix(".questions"))
    return figures, marks, [json.loads(line) for line in open(path.with_suffix(".questions"))]


def is_clear(step, now, final):
    """Past the first third and read as the finished picture is: same kinds and colours in place, no stranger. Or late.

    Steps count from 0. A picture that never settles must become clear too, or nobody would ever reject it.
    """
    if step >= LATE or step < EARLY:
        return step >= LATE
    left = list(now)
    for kind, colour, x, y, _ in final:
        match = next((q for q in left if q[:2] == [kind, colour] and abs(q[2] - x) <= 6 and abs(q[3] - y) <= 6), None)
        if match is None:
            return False
        left.remove(match)
    return bool(final) and not left


EARLY, LATE = 5, 14
steps = predictions.shape[1]
final = read(predictions[:, -1])
figures, marks, asked = mark(final, "final", questions=8)
log(f"label {args.name}", f"{len(texts)} pictures {time.time() - started:.0f}s {figures}")
result = {"texts": texts, "predictions": predictions, "marks": marks, "asked": asked}
if ends is not None:
    n, states, rollouts = ends.shape[:3]
    reached = mark(read(ends.flatten(0, 2)), "ends", prompts=[t for t in texts for _ in range(states * rollouts)])[1]
    hopeful = reached.view(n, states, rollouts).amax(2) | marks[:, None]
    # -1 where nobody knows.
    result["hopeful"] = torch.full((n, steps), -1).scatter(1, saved["after"], hopeful)
    by_step = " ".join(f"{x[x >= 0].float().mean():.2f}" for x in result["hopeful"].T)
    log(f"label {args.name}", f"hopeful by step {by_step}")
if not args.ends:
    shown = torch.zeros(len(texts), steps, dtype=torch.uint8)
    clear = torch.zeros(len(texts), steps, dtype=torch.uint8)
    for step in range(steps - 1):
        seen = read(predictions[:, step])
        shown[:, step] = mark(seen, "middle")[1]
        clear[:, step] = torch.tensor([is_clear(step, now, end) for now, end in zip(seen, final)])
    shown[:, -1], clear[:, -1] = marks, 1
    result |= {"shown": shown, "clear": clear}
    by_step = " ".join(f"{x:.2f}" for x in clear.float().mean(0))
    log(f"label {args.name}", f"clear by step {by_step}")
torch.save(result, out.with_suffix(".pt"))
log(f"label {args.name}", f"saved after {time.time() - started:.0f}s")
