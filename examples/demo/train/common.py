"""Shared parts of the trainers: optimisers, averages, checkpoints, data written by the world program."""

import json
import math
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE.parent / "weights"
RUN = Path(os.environ.get("DEMO_RUN", "demo-run"))
WORLD = os.environ.get("DEMO_WORLD", "target/release/examples/demo")
SIDE = 64

torch.set_num_threads(int(os.environ.get("DEMO_THREADS", "1")))


def world(*args):
    """Runs the world program; all knowledge of kinds, prompts and rules lives there."""
    out = subprocess.run([WORLD, *map(str, args)], check=True, capture_output=True, text=True)
    return out.stdout.strip()


def drawn(kind, count, seed, name):
    """Pictures (memory-mapped u8 NHWC) and their lines, drawn once."""
    path = RUN / "data" / name
    if not path.with_suffix(".jsonl").exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        world("draw", kind, "--count", count, "--seed", seed, "--out", path)
    with open(path.with_suffix(".jsonl")) as file:
        lines = [json.loads(line) for line in file]
    return np.load(path.with_suffix(".npy"), mmap_mode="r"), lines


def names():
    world("words", "--out", RUN / "data" / "words")
    return json.loads((RUN / "data" / "words" / "names.json").read_text())


def word_list(which):
    world("words", "--out", RUN / "data" / "words")
    return (RUN / "data" / "words" / f"{which}.txt").read_text().split("\n")[:-1]


def to_float(pixels):
    """u8 NHWC to float NCHW in -1..1, channels last in memory."""
    x = torch.from_numpy(np.array(pixels)) if isinstance(pixels, np.ndarray) else pixels
    return x.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_u8(x):
    """Decoder output to u8 NHWC; truncates, as the engine does."""
    return (((x.float() + 1) / 2).clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def orthogonalise(g, steps=5):
    """Newton-Schulz iteration towards the nearest orthogonal matrix, batched."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.mT if tall else x


class Muon:
    """Momentum whose update is orthogonalised; for weight matrices and for convolutions seen as matrices."""

    def __init__(self, params, momentum=0.95, decay=0.01):
        self.params, self.momentum, self.decay = list(params), momentum, decay
        self.buffers = [torch.zeros_like(p) for p in self.params]
        self.groups = {}
        for i, p in enumerate(self.params):
            self.groups.setdefault((p.shape[0], p[0].numel()), []).append(i)

    @torch.no_grad()
    def step(self, lr):
        for shape, members in self.groups.items():
            updates = []
            for i in members:
                grad = self.params[i].grad
                self.buffers[i].mul_(self.momentum).add_(grad)
                updates.append((grad + self.momentum * self.buffers[i]).reshape(shape))
            updates = orthogonalise(torch.stack(updates))
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for i, update in zip(members, updates):
                p = self.params[i]
                p.mul_(1 - lr * self.decay).add_(update.reshape(p.shape), alpha=-lr * scale)

    def state_dict(self):
        return self.buffers

    def load_state_dict(self, buffers):
        for mine, saved in zip(self.buffers, buffers):
            mine.copy_(saved)


class Trainer:
    """Muon on chosen matrices, AdamW on the rest, cosine schedule over a time budget, EMA, checkpoints."""

    # What counts as time; `time.process_time` where other work would use up the budget.
    clock = staticmethod(time.time)

    def __init__(self, model, name, budget, muon=(), lr=1.5e-3, muon_lr=0.02, warm=100, ema=0.998, decay=0.02, floor=0.02):
        self.model, self.name, self.budget = model, name, budget
        self.lr, self.muon_lr, self.warm, self.keep, self.floor = lr, muon_lr, warm, ema, floor
        matrices = [p for n, p in model.named_parameters() if n in set(muon)]
        chosen = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        self.muon = Muon(matrices) if matrices else None
        self.adam = torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.dim() > 1], "weight_decay": decay},
                {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
            ],
            lr=lr,
            betas=(0.9, 0.98),
        )
        self.ema = {k: v.clone() for k, v in model.state_dict().items()}
        self.steps, self.spent = 0, 0.0
        self.path = RUN / f"{name}.pt"
        if self.path.exists():
            saved = torch.load(self.path, weights_only=True)
            model.load_state_dict(saved["model"])
            self.adam.load_state_dict(saved["adam"])
            self.ema, self.steps, self.spent = saved["ema"], saved["steps"], saved["spent"]
            if self.muon:
                self.muon.load_state_dict(saved["muon"])
        self.tick, self.saved = self.clock(), time.time()

    @property
    def progress(self):
        return min(1.0, self.spent / self.budget)

    def step(self, loss, clip=None):
        rate = min(1.0, (self.steps + 1) / self.warm) * (
            self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * self.progress))
        )
        for group in self.adam.param_groups:
            group["lr"] = self.lr * rate
        self.model.zero_grad(set_to_none=False)
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.adam.step()
        if self.muon:
            self.muon.step(self.muon_lr * rate)
        self.steps += 1
        weight = 1 - min(self.keep, self.steps / (self.steps + 10))
        with torch.no_grad():
            for k, v in self.model.state_dict().items():
                if v.dtype.is_floating_point:
                    self.ema[k].lerp_(v, weight)
                else:
                    self.ema[k].copy_(v)
        now = self.clock()
        self.spent += now - self.tick
        self.tick = now
        if time.time() - self.saved > 120:
            self.save()

    def save(self):
        state = {
            "model": self.model.state_dict(),
            "adam": self.adam.state_dict(),
            "muon": self.muon.state_dict() if self.muon else None,
            "ema": self.ema,
            "steps": self.steps,
            "spent": self.spent,
        }
        torch.save(state, self.path.with_suffix(".tmp"))
        self.path.with_suffix(".tmp").rename(self.path)
        self.saved = time.time()

    def pause(self):
        """Starts the clock again after an evaluation, which is not training time."""
        self.tick = self.clock()


def log(name, text):
    line = f"{time.strftime('%H:%M:%S')} {name}: {text}"
    print(line, flush=True)
    with open(RUN / "figures.log", "a") as file:
        file.write(line + "\n")


def save_half(tensors, path, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().to(torch.float16).contiguous() for k, v in tensors.items()}, str(path), metadata=metadata)
