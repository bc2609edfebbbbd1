"""Trains the MAGVIT-v2 tokenizer on drawn pictures and exports it."""

import argparse
import json
import math

import numpy as np
import torch

from common import RUN, Trainer, WEIGHTS, drawn, log, save_half, to_float
from magvit import CONFIG, Magvit

args = argparse.ArgumentParser()
args.add_argument("--seconds", type=float, default=600)
args.add_argument("--muon", action="store_true")
args.add_argument("--name", default="tokenizer")
args.add_argument("--lr", type=float, default=2e-3)
args = args.parse_args()
BATCH = 16
torch.manual_seed(1)
rng = np.random.default_rng(1)
pictures, _ = drawn("mixed", 30000, 11, "mixed")
train = len(pictures) - 500
model = Magvit().to(memory_format=torch.channels_last)
matrices = [n for n, p in model.named_parameters() if p.dim() == 4 and p[0].numel() >= 16 and "conv_in" not in n and "conv_out" not in n and "quant" not in n]
t = Trainer(model, args.name, args.seconds, matrices if args.muon else (), lr=args.lr, ema=0.998, decay=1e-4)
log(args.name, f"{sum(p.numel() for p in model.parameters())} parameters, from step {t.steps}")


def entropy(p):
    return -(p * torch.log(p + 1e-6) + (1 - p) * torch.log(1 - p + 1e-6))


def export():
    shadow = Magvit().to(memory_format=torch.channels_last)
    shadow.load_state_dict(t.ema)
    shadow.eval()
    x = to_float(pictures[train:])
    r = shadow.decode(shadow.encode(x)).clamp(-1, 1)
    psnr = (10 * torch.log10(4 / ((r - x) ** 2).mean((1, 2, 3)))).mean().item()
    log(args.name, f"step {t.steps} {t.spent:.0f}s held-out PSNR {psnr:.2f} dB, codes used {len(shadow.encode(x).unique())}")
    out = WEIGHTS / "magvitv2" if args.name == "tokenizer" else RUN / args.name
    save_half(shadow.state_dict(), out / "pytorch_model.safetensors")
    (out / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    model.train()
    t.pause()


while t.progress < 1:
    x = to_float(pictures[np.sort(rng.integers(0, train, BATCH))])
    r, z, bits = model(x)
    e = r - x
    gx, gy = e[..., 1:] - e[..., :-1], e[..., 1:, :] - e[..., :-1, :]
    p = torch.sigmoid(4 * z)
    # Sure about each bit, undecided over the batch: every code stays in use.
    bit_loss = entropy(p).mean() - entropy(p.mean((0, 2, 3))).mean()
    mse = (e * e).mean()
    loss = 2 * mse + e.abs().mean() + 0.5 * (gx.abs().mean() + gy.abs().mean())
    loss = loss + 0.05 * min(1, t.steps / 100) * bit_loss + 0.1 * ((z - bits) ** 2).mean()
    t.step(loss, clip=1.0)
    if t.steps % 100 == 0:
        print(t.steps, f"{t.spent:.0f}s psnr {10 * math.log10(4 / mse.item()):.2f}", flush=True)
    if t.steps % 1000 == 0:
        export()
t.save()
export()
