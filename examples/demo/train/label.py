"""Labels what collect.py drew with the label detector; the world program turns its readings into marks and questions.

Predictions on the way are read too: one is clear when its reading is that of the finished picture.
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
args = args.parse_args()
started = time.time()
out = RUN / "data" / args.name
saved = torch.load(out.with_suffix(".drawn"), weights_only=True)
texts, predictions = saved["texts"], saved["predictions"]
tokenizer = magvit.load(WEIGHTS / "magvitv2/pytorch_model.safetensors")
reader = detector.load(WEIGHTS / "detectors/label.safetensors", "label")


def read(codes):
    return [s for c in codes.split(200) for s in detector.read(reader, to_float(to_u8(tokenizer.decode(c.long()))))]


def mark(seen, name, questions=0):
    path = out.with_name(f"{args.name}-{name}.jsonl")
    with open(path, "w") as file:
        for text, s in zip(texts, seen):
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
shown = torch.zeros(len(texts), steps, dtype=torch.uint8)
clear = torch.zeros(len(texts), steps, dtype=torch.uint8)
for step in range(steps - 1):
    seen = read(predictions[:, step])
    shown[:, step] = mark(seen, "middle")[1]
    clear[:, step] = torch.tensor([is_clear(step, now, end) for now, end in zip(seen, final)])
shown[:, -1], clear[:, -1] = marks, 1
torch.save({"texts": texts, "predictions": predictions, "marks": marks, "asked": asked, "shown": shown, "clear": clear}, out.with_suffix(".pt"))
by_step = " ".join(f"{x:.2f}" for x in clear.float().mean(0))
log(f"label {args.name}", f"clear by step {by_step}; saved after {time.time() - started:.0f}s")
