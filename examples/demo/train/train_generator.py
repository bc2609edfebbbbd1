"""Trains the generator on tokenised training-split scenes and exports it as it goes."""

import argparse
import json
import time

import numpy as np
import torch
import torch.nn.functional as F

import detector
import magvit
from common import RUN, Trainer, WEIGHTS, drawn, log, save_half, to_float, to_u8, word_list, world
from showo import CODES, CONFIG, FIRST_CODE, MASK, TOKENS, ShowO, sample, text_ids

args = argparse.ArgumentParser()
args.add_argument("--seconds", type=float, default=1800)
args.add_argument("--scenes", type=int, default=60000)
args.add_argument("--evaluate", type=float, default=300, help="seconds between evaluations")
args = args.parse_args()
BATCH = 64
torch.manual_seed(2)
rng = np.random.default_rng(2)
tokenizer = magvit.load(WEIGHTS / "magvitv2/pytorch_model.safetensors")
tokens = RUN / "data" / "train-tokens.pt"
if not tokens.exists():
    pictures, lines = drawn("train", args.scenes, 21, "train")
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        codes = torch.cat([tokenizer.encode(to_float(pictures[i : i + 250])) for i in range(0, args.scenes, 250)])
    torch.save((codes.short(), text_ids([line["prompt"] for line in lines])), tokens)
codes, texts = torch.load(tokens, weights_only=True)
codes = codes.long()
empty = text_ids([""])[0]
model = ShowO()
matrices = [n for n, p in model.named_parameters() if ".layers." in n and p.dim() == 2]
t = Trainer(model, "generator", args.seconds, matrices, lr=1.5e-3, muon_lr=0.02, warm=100, ema=0.997)
log("generator", f"{sum(p.numel() for p in model.parameters())} parameters, {len(codes)} scenes, from step {t.steps}")
world("prompts", "--count", 240, "--seed", 77, "--out", RUN / "data" / "watch.jsonl")
watch = [json.loads(line)["prompt"] for line in open(RUN / "data" / "watch.jsonl")]


def export():
    out = WEIGHTS / "show-o"
    save_half({k: v for k, v in t.ema.items()}, out / "pytorch_model.safetensors")
    (out / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (out / "vocab.txt").write_text("\n".join(word_list("show-o")) + "\n")
    model.load_state_dict(t.ema)
    path = WEIGHTS / "detectors/label.safetensors"
    score = ""
    if path.exists():
        codes = torch.cat([sample(model, watch[i : i + 60], seed=i)[0][:, -1] for i in range(0, len(watch), 60)])
        seen = detector.read(detector.load(path, "label"), to_float(to_u8(tokenizer.decode(codes))))
        with open(RUN / "watch-readings.jsonl", "w") as file:
            for prompt, s in zip(watch, seen):
                file.write(json.dumps({"prompt": prompt, "seen": s}) + "\n")
        score = world("score", "--readings", RUN / "watch-readings.jsonl")
    log("generator", f"step {t.steps} {t.spent:.0f}s loss {total / max(1, count):.4f} {score}")


total, count, last = 0.0, 0, time.time()
while t.progress < 1:
    i = torch.from_numpy(rng.integers(0, len(codes), BATCH))
    text, image = texts[i].clone(), codes[i]
    text[torch.rand(BATCH) < 0.1] = empty
    # Mask ratios are spread evenly within a batch, which lowers the variance of the loss.
    u = (torch.arange(BATCH) + torch.rand(BATCH)) / BATCH
    masked = (TOKENS * torch.cos(u * torch.pi / 2)).ceil().clamp(min=1)
    hidden = torch.rand(BATCH, TOKENS).argsort(1).argsort(1) < masked[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(text, torch.where(hidden, MASK, image + FIRST_CODE), hidden)
    loss = F.cross_entropy(logits.float(), image[hidden])
    t.step(loss)
    total, count = total + loss.item(), count + 1
    if t.steps % 100 == 0:
        print(t.steps, f"{t.spent:.0f}s loss {total / count:.4f}", flush=True)
        if t.steps % 1000:
            total, count = 0.0, 0
    if time.time() - last > args.evaluate:
        kept = {k: v.clone() for k, v in model.state_dict().items()}
        export()
        model.load_state_dict(kept)
        total, count, last = 0.0, 0, time.time()
        t.pause()
t.save()
export()
