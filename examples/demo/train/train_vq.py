"""Trains Janus's image tokenizer on drawn pictures; the run keeps it whole, the bundled folder its decoder."""

import argparse
import math

import numpy as np
import torch

from common import RUN, Trainer, drawn, log, save_half, to_float
from vq import CODES, EMBED, Vq

args = argparse.ArgumentParser()
args.add_argument("--seconds", type=float, default=600)
args.add_argument("--lr", type=float, default=2e-3)
args.add_argument("--rate", type=float, default=5e-4, help="likeness that a code must be ahead for each nat that it is rarer")
args = args.parse_args()
BATCH, KEEP = 16, 0.98
torch.manual_seed(5)
rng = np.random.default_rng(5)
pictures, _ = drawn("mixed", 30000, 11, "mixed")
train = len(pictures) - 500
model = Vq().to(memory_format=torch.channels_last)
matrices = [n for n, p in model.named_parameters() if p.dim() == 4 and p[0].numel() >= 16 and "conv_in" not in n and "conv_out" not in n and "quant" not in n]
t = Trainer(model, "vq", args.seconds, matrices, lr=args.lr, ema=0.998, decay=1e-4)
log("vq", f"{sum(p.numel() for p in model.parameters())} parameters, from step {t.steps}")
# Averages of how often a code is used and of the latents that use it. A resumed run starts them anew from the codes.
uses, sums = torch.ones(CODES), model.entries().clone()


@torch.no_grad()
def follow(z, codes, revive):
    """Moves every code towards the latents that chose it; forgotten ones start anew where the error is large."""
    flat, codes = z.detach().reshape(-1, EMBED), codes.flatten()
    uses.mul_(KEEP).add_(torch.bincount(codes, minlength=CODES).float(), alpha=1 - KEEP)
    sums.mul_(KEEP).index_add_(0, codes, flat, alpha=1 - KEEP)
    if revive:
        lost = (uses < 0.03).nonzero()[: len(flat) // 4, 0]
        error = (1 - (flat * model.entries()[codes]).sum(-1)).clamp(min=1e-6)
        if len(lost):
            uses[lost], sums[lost] = 0.3, 0.3 * flat[torch.multinomial(error, len(lost))]
    # Backgrounds then share a few codes, which makes pictures easier to predict.
    model.rate.copy_(-args.rate * torch.log(uses / uses.sum() + 1e-5))
    model.quantize.embedding.weight.copy_(torch.nn.functional.normalize(sums, dim=-1))


def export():
    shadow = Vq().to(memory_format=torch.channels_last)
    shadow.load_state_dict(t.ema)
    shadow.eval()
    x = to_float(pictures[train:])
    codes = shadow.encode(x)
    r = shadow.decode(codes).clamp(-1, 1)
    psnr = (10 * torch.log10(4 / ((r - x) ** 2).mean((1, 2, 3)))).mean().item()
    share = torch.bincount(codes.flatten(), minlength=CODES).float() / codes.numel()
    spread = -(share * torch.log2(share + 1e-12)).sum().item()
    log("vq", f"step {t.steps} {t.spent:.0f}s held-out PSNR {psnr:.2f} dB, codes used {len(codes.unique())}, {spread:.2f} bits a code")
    save_half(shadow.state_dict(), RUN / "vq.safetensors")
    t.pause()


while t.progress < 1:
    x = to_float(pictures[np.sort(rng.integers(0, train, BATCH))])
    z = model.latents(x)
    codes = model.nearest(z.detach())
    q = model.entries()[codes]
    follow(z, codes, t.steps % 20 == 19 and t.progress < 0.5)
    # The first steps draw from the latents themselves, so that codes have something to follow.
    e = model.draw(z if t.steps < 100 else z + (q - z).detach()) - x
    gx, gy = e[..., 1:] - e[..., :-1], e[..., 1:, :] - e[..., :-1, :]
    mse = (e * e).mean()
    loss = 2 * mse + e.abs().mean() + 0.5 * (gx.abs().mean() + gy.abs().mean()) + 0.2 * ((z - q) ** 2).sum(-1).mean()
    t.step(loss, clip=1.0)
    if t.steps % 100 == 0:
        print(t.steps, f"{t.spent:.0f}s psnr {10 * math.log10(4 / mse.item()):.2f} error {(1 - (z * q).sum(-1)).mean():.4f} used {(uses > 0.03).sum()} bits {-(uses / uses.sum() * torch.log2(uses / uses.sum() + 1e-9)).sum():.2f}", flush=True)
    if t.steps % 1000 == 0:
        export()
t.save()
export()
