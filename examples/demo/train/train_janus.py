"""Trains Janus to draw, to write plans and to answer about drawings, all at once; the tower stays the bundled judge's."""

import argparse
import json
import subprocess
import sys

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

import detector
import janus
import vq
from common import RUN, Trainer, WEIGHTS, drawn, log, to_float, to_u8, world
from janus import NO, YES, Janus

args = argparse.ArgumentParser()
args.add_argument("--seconds", type=float, default=2100)
args.add_argument("--scenes", type=int, default=40000)
args.add_argument("--judged", type=int, default=16000)
args.add_argument("--evaluate", type=float, default=400, help="seconds between evaluations")
args.add_argument("--processes", type=int, default=1, help="processes that share every batch")
args.add_argument("--rank", type=int, default=0, help="set for the processes that the first one starts")
args = args.parse_args()
BATCH, PLANS, SEEN, ASKED, HELD = 64, 16, 16, 6, 500
torch.manual_seed(6)
pixels = vq.load(RUN / "vq.safetensors")
model = Janus()
model.warm_tower()


def scenes():
    """Codes, prompts in tokens, with and without a plan, and plans to be written."""
    path = RUN / "data" / "janus-scenes.pt"
    if not path.exists():
        pictures, lines = drawn("train", args.scenes, 21, "janus-train")
        codes = torch.cat([pixels.encode(to_float(pictures[i : i + 250])) for i in range(0, args.scenes, 250)])
        prompts, plans = [line["prompt"] for line in lines], [line["plan"] for line in lines]
        written, first = janus.planned_text(prompts, plans)
        torch.save([x.short() for x in (codes, janus.drawn_text(prompts), janus.drawn_text(prompts, plans), written, first)], path)
    return [x.long() for x in torch.load(path, weights_only=True)]


@torch.no_grad()
def judged():
    """What the tower sees of drawings, most of them as the image tokenizer shows them, and questions with answers."""
    path = RUN / "data" / "janus-judged.pt"
    pictures, lines = drawn("judge", args.judged, 31, "janus-judge")
    if not path.exists():
        seen = []
        for at in range(0, args.judged, 200):
            x = to_float(pictures[at : at + 200])
            plain = (torch.rand(len(x), 1, 1, 1) < 0.15) & (torch.arange(at, at + len(x)) < args.judged - HELD).view(-1, 1, 1, 1)
            shown = to_float(to_u8(pixels.decode(pixels.encode(x))))
            seen.append(model.look(torch.where(plain, x, shown)).to(torch.bfloat16))
        torch.save(torch.cat(seen), path)
    return torch.load(path, weights_only=True), lines


if args.processes > 1:
    if args.rank == 0:
        scenes(), judged()
        (RUN / "janus.store").unlink(missing_ok=True)
        for rank in range(1, args.processes):
            subprocess.Popen([sys.executable, *sys.argv, "--rank", str(rank)])
    dist.init_process_group("gloo", init_method=f"file://{RUN}/janus.store", rank=args.rank, world_size=args.processes)
    BATCH, PLANS, SEEN = (n // args.processes for n in (BATCH, PLANS, SEEN))
rng = np.random.default_rng(6 + args.rank)
codes, short, long, written, plan_at = scenes()
seen, lines = judged()
train = args.judged - HELD
texts = sorted({q for line in lines for q, _ in line["questions"]})
row = {text: i for i, text in enumerate(texts)}
forms = [janus.outcome, janus.process, janus.clarity_and_potential]
tables, lasts = zip(*(janus.encode([form(text) for text in texts]) for form in forms))
asked = torch.tensor([[row[q] for q, _ in line["questions"]] for line in lines])
truths = torch.tensor([[a for _, a in line["questions"]] for line in lines])

# The tower is trained already; its last norm is new.
for name, p in model.vision_model.vision_tower.named_parameters():
    p.requires_grad = name.startswith("norm.")
matrices = [n for n, p in model.named_parameters() if "language_model.model.layers." in n and p.dim() == 2]
t = Trainer(model, "janus", args.seconds, matrices, lr=1.5e-3, muon_lr=0.02, warm=100, ema=0.997)
if args.rank:
    t.saved = float("inf")
torch.manual_seed(60 + args.rank + 2 * t.steps)
log("janus", f"{sum(p.numel() for p in model.parameters())} parameters, {len(codes)} scenes, {len(seen)} judged, from step {t.steps}")
world("prompts", "--count", 180, "--seed", 77, "--out", RUN / "data" / "janus-watch.jsonl")
watch = [json.loads(line)["prompt"] for line in open(RUN / "data" / "janus-watch.jsonl")]


@torch.no_grad()
def export():
    shadow = Janus()
    shadow.load_state_dict(t.ema)
    shadow.eval()
    right = []
    for at in range(train, args.judged, 100):
        here = slice(at, at + 100)
        words = torch.stack([tables[0][asked[here, j]] for j in (0, 1, 2)], 1)
        last = torch.stack([lasts[0][asked[here, j]] for j in (0, 1, 2)], 1)
        p = shadow.answer(seen[here], words).gather(2, last[..., None, None].expand(-1, -1, 1, len(janus.WORDS)))[:, :, 0]
        right.append((p[..., YES] > p[..., NO]) == (truths[here, :3] == 1))
    janus.export(t.ema, WEIGHTS / "janus")
    out = RUN / "data" / "janus-watch"
    world("collect", "--model", WEIGHTS / "janus", "--prompts", out.with_suffix(".jsonl"), "--each", 1, "--seed", 5, "--out", out)
    drawings = to_float(to_u8(pixels.decode(torch.from_numpy(np.load(out.with_suffix(".npy")).astype(np.int64)))))
    with open(RUN / "janus-readings.jsonl", "w") as file:
        for prompt, s in zip(watch, detector.read(detector.load(WEIGHTS / "detectors/label.safetensors", "label"), drawings)):
            file.write(json.dumps({"prompt": prompt, "seen": s}) + "\n")
    score = world("score", "--readings", RUN / "janus-readings.jsonl")
    log("janus", f"step {t.steps} {t.spent:.0f}s answers right {torch.cat(right).float().mean():.3f}; {score}")


def last_words(logits, last):
    return logits.gather(2, last[..., None, None].expand(*last.shape, 1, logits.shape[-1]))[:, :, 0]


shared = janus.Shared(t, args.processes)
sums, count, evaluated = torch.zeros(4), 0, t.spent
while t.progress < 1:
    i = torch.from_numpy(rng.integers(0, len(codes), BATCH))
    text = (long if rng.random() < 0.25 else short)[i]
    text = torch.where((torch.rand(BATCH) < 0.1)[:, None], janus.unconditional(text), text)
    j = torch.from_numpy(rng.integers(0, len(codes), PLANS))
    k = torch.from_numpy(rng.integers(0, train, SEEN))
    pick = torch.rand(SEEN, 8).argsort(1)[:, :ASKED]
    which, truth = asked[k].gather(1, pick), truths[k].gather(1, pick)
    # The first four are outcome questions, then one about process and one about clarity and potential.
    words = torch.cat([tables[0][which[:, :4]], tables[1][which[:, 4:5]], tables[2][which[:, 5:]]], 1)
    last = torch.cat([lasts[0][which[:, :4]], lasts[1][which[:, 4:5]], lasts[2][which[:, 5:]]], 1)
    with torch.autocast("cpu", torch.bfloat16):
        drawing = model.draw(text, codes[i])
        writing = model.write(written[j, :-1])
        answers = model.answer(seen[k], words)
    draw = F.cross_entropy(drawing.float().flatten(0, 1), codes[i].flatten())
    behind = torch.arange(written.shape[1] - 1) >= plan_at[j, None] - 1
    plan = F.cross_entropy(writing.float()[behind], written[j, 1:][behind], ignore_index=-1)
    answer = F.cross_entropy(last_words(answers, last).flatten(0, 1), torch.where(truth == 1, YES, NO).flatten())
    # A finished picture is always clear.
    clear = F.cross_entropy(last_words(answers[:, 5:], last[:, 5:] - janus.APART)[:, 0], torch.full((SEEN,), YES))
    shared.step(draw + 0.2 * plan + 0.7 * answer + 0.03 * clear)
    sums, count = sums + torch.tensor([draw.item(), plan.item(), answer.item(), clear.item()]), count + 1
    if t.steps % 50 == 0 and args.rank == 0:
        draw, plan, answer, clear = (sums / count).tolist()
        print(t.steps, f"{t.spent:.0f}s codes {draw:.4f} plan {plan:.3f} answer {answer:.4f} clear {clear:.3f}", flush=True)
        sums.zero_()
        count = 0
    if t.spent - evaluated > args.evaluate:
        evaluated = t.spent
        if args.rank == 0:
            t.save()
            export()
        shared.wait()
if args.rank == 0:
    t.save()
    export()
