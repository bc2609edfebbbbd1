"""Lets Janus draw training-split prompts and labels the pictures with the label detector, row by row.

An object is shown once most of its height is drawn. A row is clear once all objects of the finished picture are shown.
"""

import argparse
import json
import time

import numpy as np
import torch

import detector
import vq
from common import RUN, WEIGHTS, log, to_float, to_u8, world

args = argparse.ArgumentParser()
args.add_argument("name")
args.add_argument("--prompts", type=int, default=240)
args.add_argument("--each", type=int, default=10, help="pictures a prompt")
args.add_argument("--seed", type=int, default=1)
args.add_argument("--model", default=str(WEIGHTS / "janus"))
args.add_argument("--guidance", type=float, default=2.0)
args.add_argument("--plan", action="store_true", help="write a plan first, and draw with it")
args = args.parse_args()
ROWS, EARLY, LATE = vq.GRID, 3, vq.GRID - 1
started = time.time()
out = RUN / "data" / args.name
world("prompts", "--count", args.prompts, "--seed", 9000 + args.seed, "--out", out.with_suffix(".prompts"))
prompts = [json.loads(line)["prompt"] for line in open(out.with_suffix(".prompts"))]
plan = ["--plan"] if args.plan else []
world("collect", "--model", args.model, "--prompts", out.with_suffix(".prompts"), "--each", args.each, "--seed", args.seed, "--guidance", args.guidance, *plan, "--out", out)
drawing = time.time() - started
codes = torch.from_numpy(np.load(out.with_suffix(".npy")).astype(np.int64))
texts = [p for p in prompts for _ in range(args.each)]
pixels = vq.load(RUN / "vq.safetensors")
reader = detector.load(WEIGHTS / "detectors/label.safetensors", "label")
final = [s for c in codes.split(200) for s in detector.read(reader, to_float(to_u8(pixels.decode(c))))]


def mark(seen, row):
    path = out.with_name(f"{args.name}-{row}.jsonl")
    with open(path, "w") as file:
        for text, s in zip(texts, seen):
            file.write(json.dumps({"prompt": text, "seen": s}) + "\n")
    figures = world("score", "--readings", path, "--out", path.with_suffix(".marks"))
    return path, figures, torch.tensor([int(x) for x in path.with_suffix(".marks").read_text().split()])


def shown_by(seen, row):
    """What is seen of a picture whose first rows of codes are drawn: boxes of which three quarters lie above."""
    return [s for s in seen if s[3] + s[4] / 4 <= row * vq.SIDE / vq.GRID]


path, figures, marks = mark(final, "final")
world("questions", "--readings", path, "--each", 8, "--seed", args.seed, "--out", path.with_suffix(".questions"))
asked = [json.loads(line) for line in open(path.with_suffix(".questions"))]
shown, clear = torch.zeros(len(texts), ROWS + 1, dtype=torch.uint8), torch.zeros(len(texts), ROWS + 1, dtype=torch.uint8)
for row in range(1, ROWS):
    parts = [shown_by(s, row) for s in final]
    shown[:, row] = mark(parts, "rows")[2]
    clear[:, row] = torch.tensor([row >= LATE or (row >= EARLY and len(s) > 0 and len(p) == len(s)) for p, s in zip(parts, final)])
shown[:, ROWS], clear[:, ROWS] = marks, 1
torch.save({"texts": texts, "codes": codes.short(), "marks": marks, "asked": asked, "shown": shown, "clear": clear}, out.with_suffix(".pt"))
log(f"collect {args.name}", f"{len(texts)} pictures drawn in {drawing:.0f}s; {figures}; clear by row {' '.join(f'{x:.2f}' for x in clear[:, 1:].float().mean(0))}; {time.time() - started:.0f}s")
