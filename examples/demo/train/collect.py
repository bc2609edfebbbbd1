"""Samples the generator on training-split prompts: every prediction on the way to a picture, as codes."""

import argparse
import json
import time

import torch

import showo
from common import RUN, WEIGHTS, log, world

args = argparse.ArgumentParser()
args.add_argument("name")
args.add_argument("--prompts", type=int, default=480)
args.add_argument("--each", type=int, default=10, help="pictures a prompt")
args.add_argument("--seed", type=int, default=1)
args.add_argument("--guidance", type=float, default=2.0)
args = args.parse_args()
started = time.time()
out = RUN / "data" / args.name
out.parent.mkdir(parents=True, exist_ok=True)
world("prompts", "--count", args.prompts, "--seed", 9000 + args.seed, "--out", out.with_suffix(".prompts"))
prompts = [json.loads(line)["prompt"] for line in open(out.with_suffix(".prompts"))]
generator = showo.load(WEIGHTS / "show-o/pytorch_model.safetensors")
texts, predictions = [], []
block = max(1, 48 // args.each)
for at in range(0, len(prompts), block):
    part = [p for p in prompts[at : at + block] for _ in range(args.each)]
    predictions.append(showo.sample(generator, part, args.seed * 100003 + at, w=args.guidance)[0].short())
    texts += part
torch.save({"texts": texts, "predictions": torch.cat(predictions)}, out.with_suffix(".drawn"))
log(f"collect {args.name}", f"{len(texts)} pictures after {time.time() - started:.0f}s")
