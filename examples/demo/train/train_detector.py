"""Trains one detector: first on drawings, then (--tokenizer) half on reconstructions, some with wrong tokens."""

import argparse

import numpy as np
import torch
import torch.nn.functional as F

import detector
import magvit
from common import RUN, Trainer, WEIGHTS, drawn, log, to_float, to_u8
from detector import COLOURS, GRID, KINDS, Detector

args = argparse.ArgumentParser()
args.add_argument("which", choices=["eval", "label"])
args.add_argument("--seconds", type=float, default=150)
args.add_argument("--tokenizer", action="store_true")
args = args.parse_args()
SEED = {"eval": 101, "label": 202}[args.which]
BATCH, COUNT, HELD = 32, 20000, 1000
torch.manual_seed(SEED)
rng = np.random.default_rng(SEED)
pictures, lines = drawn("mixed", COUNT, SEED, f"detector-{args.which}")
pictures = torch.from_numpy(np.array(pictures))
objects = torch.zeros(COUNT, 4, 5)
there = torch.zeros(COUNT, 4, dtype=torch.bool)
for i, line in enumerate(lines):
    for j, o in enumerate(line["objects"]):
        objects[i, j] = torch.tensor(o, dtype=torch.float)
        there[i, j] = True
train = COUNT - HELD
model = Detector(args.which).to(memory_format=torch.channels_last)
first = f"detector-{args.which}"
if args.tokenizer:
    model.load_state_dict(torch.load(RUN / f"{first}.pt", weights_only=True)["ema"])
    tokenizer = magvit.load(WEIGHTS / "magvitv2/pytorch_model.safetensors")
    codes = torch.cat([tokenizer.encode(to_float(p)) for p in pictures.split(200)])
matrices = [n for n, p in model.named_parameters() if p.dim() == 4 and p[0].numel() >= 100] if args.tokenizer else ()
t = Trainer(
    model, first + ("-recon" if args.tokenizer else ""), args.seconds, matrices, muon_lr=0.01, lr=1.5e-3 if args.tokenizer else 3e-3, decay=1e-3, ema=0.99
)
cells = torch.arange(GRID).float()
tokens = torch.arange(8).float() * 8


def overlap(lo, size):
    """Length shared by [lo, lo+size] and each 8-pixel token."""
    return (torch.minimum(lo[..., None] + size[..., None], tokens + 8) - torch.maximum(lo[..., None], tokens)).clamp(min=0)


def spoiled(i):
    """Reconstructions with tokens of other pictures mixed in; objects keep their label, are ignored or are gone."""
    c, keep = codes[i].clone(), there[i].clone()
    ignore = torch.zeros_like(keep)
    j = torch.randint(0, train, (len(i),))
    swap = torch.rand(len(i), 64) < torch.rand(len(i), 1) ** 2 * 0.5
    swap &= (torch.rand(len(i)) < 0.2)[:, None]
    changed = swap & (c != codes[j])
    c = torch.where(swap, codes[j], c)
    lost = share(objects[i], changed)
    ignore |= keep & (lost > 0.25) & (lost < 0.5)
    keep &= lost <= 0.25
    # Parts of the other picture's objects come along; a large part is neither an object nor a clear mistake.
    strange = there[j] & (share(objects[j], changed) > 0.25)
    with torch.autocast("cpu", torch.bfloat16):
        pictures = tokenizer.decode(c)
    return pictures.float().clamp(-1, 1), keep, ignore, j, strange


def share(o, tokens_changed):
    area = overlap(o[..., 4], o[..., 2])[..., :, None] * overlap(o[..., 3], o[..., 2])[..., None, :]
    return (area * tokens_changed.view(-1, 1, 8, 8)).sum((2, 3)) / (o[..., 2] ** 2 + 1e-6)


def targets(i, keep):
    o = objects[i]
    cx, cy = (o[..., 3] + o[..., 2] / 2) / 4 - 0.5, (o[..., 4] + o[..., 2] / 2) / 4 - 0.5
    dx, dy = cells[None, None, None] - cx[..., None, None], cells[None, None, :, None] - cy[..., None, None]
    near = keep[..., None, None]
    gauss = torch.exp(-(dx**2 + dy**2) / 1.6) * near
    hit = (torch.abs(dx) <= 0.5) & (torch.abs(dy) <= 0.5) & near
    close = (torch.abs(dx) <= 1.5) & (torch.abs(dy) <= 1.5) & near
    return gauss.amax(1), hit.any(1), close, o


def exact(pics):
    shadow = Detector(args.which).to(memory_format=torch.channels_last)
    shadow.load_state_dict(t.ema)
    shadow.eval()
    good = 0
    for line, seen in zip(lines[train:], detector.read(shadow, pics)):
        left, missed = list(seen), 0
        for k, c, s, x, y in line["objects"]:
            match = [q for q in left if q[0] == k and q[1] == c and abs(q[2] - x - s / 2) < 6 and abs(q[3] - y - s / 2) < 6]
            if match:
                left.remove(match[0])
            else:
                missed += 1
        good += not left and not missed
    return good / HELD


def export():
    shadow = Detector(args.which)
    shadow.load_state_dict(t.ema)
    shadow.eval()
    x = to_float(pictures[train:])
    figures = f"exact on drawings {exact(x):.3f}"
    if args.tokenizer:
        figures += f", on reconstructions {exact(to_float(to_u8(tokenizer.decode(codes[train:])))):.3f}"
    log(f"detector {args.which}", f"step {t.steps} {t.spent:.0f}s {figures}")
    detector.export(shadow, WEIGHTS / f"detectors/{args.which}.safetensors")
    t.pause()


while t.progress < 1:
    i = torch.from_numpy(rng.integers(0, train, BATCH))
    x, keep, skip = to_float(pictures[i]), there[i], torch.zeros(BATCH, GRID, GRID, dtype=torch.bool)
    if args.tokenizer:
        r, k, ignore, j, strange = spoiled(i)
        half = torch.rand(BATCH) < 0.6
        x, keep = torch.where(half[:, None, None, None], r, x), torch.where(half[:, None], k, keep)
        skip = torch.maximum(targets(i, ignore)[0], targets(j, strange)[0]) > 0.05
        skip &= half[:, None, None]
    if t.steps % 3 == 0 and args.which == "eval":
        x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    if args.which == "label":
        x = x * (1 + 0.1 * torch.randn(BATCH, 3, 1, 1))
    x = x + torch.randn_like(x) * 0.06 * torch.rand(BATCH, 1, 1, 1)
    o = model(x.contiguous(memory_format=torch.channels_last))
    heat, hit, close, info = targets(i, keep)
    p = o[:, 0].sigmoid().clamp(1e-4, 1 - 1e-4)
    focal = torch.where(hit, (1 - p) ** 2 * p.log(), (1 - heat) ** 4 * p**2 * (1 - p).log()) * ~skip
    b, j, r, c = close.nonzero(as_tuple=True)
    at, what = o[b, :, r, c], info[b, j].long()
    loss = -focal.sum() / BATCH * 0.5 + 2 * F.cross_entropy(at[:, 1 : 1 + KINDS], what[:, 0])
    loss = loss + 2 * F.cross_entropy(at[:, 1 + KINDS : 1 + KINDS + COLOURS], what[:, 1])
    loss = loss + F.l1_loss(at[:, -1], (what[:, 2] - 22) / 10)
    t.step(loss)
    if t.steps % 500 == 0:
        print(t.steps, f"{t.spent:.0f}s loss {loss.item():.3f}", flush=True)
    if t.steps % 2000 == 0:
        export()
t.save()
export()
