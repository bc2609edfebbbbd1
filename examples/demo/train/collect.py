"""Samples the generator on training-split prompts: every prediction on the way to a picture, as codes.

With --rollouts, also the ends that other draws reach from the states after some of the steps.
"""

import argparse
import json
import random
import time

import torch

import showo
from common import RUN, WEIGHTS, log, world

# Before that the state holds four codes at most, and any picture of the prompt is an end of it.
SETTLED = 4
args = argparse.ArgumentParser()
args.add_argument("name")
args.add_argument("--prompts", type=int, default=480)
args.add_argument("--each", type=int, default=10, help="pictures a prompt")
args.add_argument("--seed", type=int, default=1)
args.add_argument("--guidance", type=float, default=2.0)
args.add_argument("--rollouts", type=int, default=0, help="further ends from each chosen state")
args.add_argument("--states", type=int, default=5, help="states of a picture to go on from, after the first steps have settled something")
args = args.parse_args()
started = time.time()
out = RUN / "data" / args.name
out.parent.mkdir(parents=True, exist_ok=True)
world("prompts", "--count", args.prompts, "--seed", 9000 + args.seed, "--out", out.with_suffix(".prompts"))
prompts = [json.loads(line)["prompt"] for line in open(out.with_suffix(".prompts"))]
generator = showo.load(WEIGHTS / "show-o/pytorch_model.safetensors")
texts, predictions, after, ends = [], [], [], []
block = max(1, 48 // args.each)
for at in range(0, len(prompts), block):
    part = [p for p in prompts[at : at + block] for _ in range(args.each)]
    seed = args.seed * 100003 + at
    drawn, states = showo.sample(generator, part, seed, w=args.guidance)
    predictions.append(drawn.short())
    texts += part
    if args.rollouts:
        again = [p for p in part for _ in range(args.rollouts)]
        chosen = sorted(random.Random(seed).sample(range(SETTLED, drawn.shape[1] - 1), args.states))
        after.append(torch.tensor(chosen).expand(len(part), -1))
        for s in chosen:
            begun = states[:, s].repeat_interleave(args.rollouts, 0)
            end = showo.sample(generator, again, seed + 50021 * (s + 1), w=args.guidance, start=begun, first=s + 1)[0][:, -1]
            ends.append(end.short().view(len(part), args.rollouts, -1))
        ends[-args.states :] = [torch.stack(ends[-args.states :], 1)]
saved = {"texts": texts, "predictions": torch.cat(predictions)}
if args.rollouts:
    # [pictures, states] and [pictures, states, rollouts, codes]; steps count from 0.
    saved |= {"after": torch.cat(after), "ends": torch.cat(ends)}
torch.save(saved, out.with_suffix(".drawn"))
log(f"collect {args.name}", f"{len(texts)} pictures after {time.time() - started:.0f}s")
