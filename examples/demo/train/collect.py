"""Samples the generator on training-split prompts and labels everything the judge is fine-tuned on.

Final pictures are read by the label detector; the world program turns the readings into marks and questions.
Intermediate predictions are read too: one is clear when its reading is mostly that of the final picture.
"""

import argparse
import json
import time

import torch

import detector
import magvit
import showo
from common import RUN, WEIGHTS, log, to_float, to_u8, world

args = argparse.ArgumentParser()
args.add_argument("name")
args.add_argument("--prompts", type=int, default=400)
args.add_argument("--each", type=int, default=6, help="pictures a prompt")
args.add_argument("--seed", type=int, default=1)
args.add_argument("--guidance", type=float, default=2.0)
args.add_argument("--states", type=int, default=6, help="judged steps kept a picture")
args.add_argument("--seconds", type=float, default=1e9)
args = args.parse_args()
started = time.time()
out = RUN / "data" / args.name
world("prompts", "--count", args.prompts, "--seed", 9000 + args.seed, "--out", out.with_suffix(".prompts"))
prompts = [json.loads(line)["prompt"] for line in open(out.with_suffix(".prompts"))]
generator = showo.load(WEIGHTS / "show-o/pytorch_model.safetensors")
tokenizer = magvit.load(WEIGHTS / "magvitv2/pytorch_model.safetensors")
reader = detector.load(WEIGHTS / "detectors/label.safetensors", "label")
torch.manual_seed(args.seed)


def decode(codes):
    return torch.cat([to_u8(tokenizer.decode(c)) for c in codes.split(200)])


def mark(texts, seen, name, questions=0):
    path = out.with_name(f"{args.name}-{name}.jsonl")
    with open(path, "w") as file:
        for text, s in zip(texts, seen):
            file.write(json.dumps({"prompt": text, "seen": s}) + "\n")
    figures = world("score", "--readings", path, "--out", path.with_suffix(".marks"))
    marks = [int(x) for x in path.with_suffix(".marks").read_text().split()]
    asked = None
    if questions:
        world("questions", "--readings", path, "--each", questions, "--seed", args.seed, "--out", path.with_suffix(".questions"))
        asked = [json.loads(line) for line in open(path.with_suffix(".questions"))]
    return figures, marks, asked


def is_clear(step, now, final):
    """Late, or past the first third with at least half of the final objects in place and at most one stranger.

    Steps count from 0. A picture that never shows anything must become clear too, or nobody would ever reject it.
    """
    if step >= 11 or step < 5:
        return int(step >= 11)
    left, hits = list(now), 0
    for kind, _, x, y, _ in final:
        match = next((q for q in left if q[0] == kind and abs(q[2] - x) <= 8 and abs(q[3] - y) <= 8), None)
        if match is not None:
            left.remove(match)
            hits += 1
    return int(0 < len(final) <= 2 * hits and len(left) <= 1)


texts, predictions = [], []
block = max(1, 48 // args.each)
for at in range(0, len(prompts), block):
    part = [p for p in prompts[at : at + block] for _ in range(args.each)]
    predictions.append(showo.sample(generator, part, args.seed * 100003 + at, w=args.guidance)[0])
    texts += part
    if time.time() - started > args.seconds:
        break
predictions = torch.cat(predictions)
final = decode(predictions[:, -1])
seen = detector.read(reader, to_float(final))
figures, marks, asked = mark(texts, seen, "final", questions=8)
log(f"collect {args.name}", f"{len(texts)} pictures {time.time() - started:.0f}s {figures}")

# Steps 2..17 (from 1); the last one is the picture itself.
steps = torch.rand(len(texts), 16).argsort(1)[:, : args.states] + 1
owner = torch.arange(len(texts)).repeat_interleave(args.states)
steps = steps.flatten()
middle = decode(predictions[owner, steps])
seen_middle = detector.read(reader, to_float(middle))
clear = torch.tensor([is_clear(int(steps[i]), seen_middle[i], seen[o]) for i, o in enumerate(owner.tolist())])
_, shown, _ = mark([texts[o] for o in owner.tolist()], seen_middle, "middle")
by_step = [f"{clear[steps == s].float().mean():.2f}" for s in range(1, 17)]
log(f"collect {args.name}", f"clear by step 2..17: {' '.join(by_step)}")
torch.save(
    {
        "texts": texts,
        "final": final,
        "marks": torch.tensor(marks),
        "asked": asked,
        "owner": owner,
        "step": steps,
        "middle": middle,
        "clear": clear,
        "shown": torch.tensor(shown),
    },
    out.with_suffix(".pt"),
)
log(f"collect {args.name}", f"saved after {time.time() - started:.0f}s")
