"""Plain sampling, best of N by outcome, by process, and PARM on the held-out prompts, marked by the eval detector."""

import argparse
import json
import time

import torch

import detector
import judge
import magvit
import showo
from common import HERE, RUN, WEIGHTS, log, to_float, to_u8, world
from judge import NO, YES

args = argparse.ArgumentParser()
args.add_argument("--each", type=int, default=20)
args.add_argument("--stride", type=int, default=1, help="use every n-th prompt of a task")
args.add_argument("--guidance", type=float, default=2.0)
args.add_argument("--judge", default=str(WEIGHTS / "judge/model.safetensors"))
args.add_argument("--seed", type=int, default=7)
args.add_argument("--cache", help="keep the sampled trajectories under this name")
args.add_argument("--no-process", action="store_true", help="leave out the dear best of N by process")
args.add_argument("--plain", action="store_true", help="no judge")
args = args.parse_args()
records = [json.loads(line) for line in open(HERE.parent / "eval_prompts.jsonl")]
tags = list(dict.fromkeys(r["tag"] for r in records))
prompts = []
for tag in tags:
    mine = [r["prompt"] for r in records if r["tag"] == tag]
    prompts += mine if len(mine) <= 15 else mine[:: args.stride]
tag_of = {r["prompt"]: r["tag"] for r in records}
tokenizer = magvit.load(WEIGHTS / "magvitv2/pytorch_model.safetensors")
reader = detector.load(WEIGHTS / "detectors/eval.safetensors", "eval")
texts = [p for p in prompts for _ in range(args.each)]
cache = RUN / f"{args.cache}.pt" if args.cache else None
started = time.time()
if cache and cache.exists():
    codes = torch.load(cache, weights_only=True).long()
else:
    model = showo.load(WEIGHTS / "show-o/pytorch_model.safetensors")
    codes = torch.cat(
        [showo.sample(model, texts[i : i + 60], args.seed * 100003 + i, w=args.guidance)[0] for i in range(0, len(texts), 60)]
    )
    if cache:
        torch.save(codes.short(), cache)
sampled = time.time() - started


def decode(c):
    return to_float(torch.cat([to_u8(tokenizer.decode(part)) for part in c.split(200)]))


final = decode(codes[:, -1])
readings = RUN / f"eval-readings-{args.seed}.jsonl"
with open(readings, "w") as file:
    for text, seen in zip(texts, detector.read(reader, final)):
        file.write(json.dumps({"prompt": text, "seen": seen}) + "\n")
world("score", "--readings", readings, "--out", readings.with_suffix(".marks"))
marks = torch.tensor([int(x) for x in readings.with_suffix(".marks").read_text().split()]).view(len(prompts), args.each)


def table(name, right, steps, questions):
    """`right` is a share per prompt."""
    by = [right[torch.tensor([tag_of[p] == tag for p in prompts])].mean().item() for tag in tags]
    row = " ".join(f"{x:.3f}" for x in by)
    log("evaluate", f"{name:24s} {row} overall {sum(by) / len(by):.3f} steps {steps:.0f} answers {questions:.0f}")


log("evaluate", f"{len(prompts)} prompts x {args.each}, w={args.guidance}, sampled in {sampled:.0f}s; {' '.join(tags)}")
table("plain", marks.float().mean(1), 18, 0)
table(f"oracle best of {args.each}", marks.amax(1).float(), 18 * args.each, 0)
if args.plain:
    raise SystemExit
model = judge.load(args.judge)


@torch.no_grad()
def ask(pictures, form):
    """Softmax of every word position of one question a picture: outcome or process p_yes, or (p_clear, yes, no)."""
    out = []
    for i in range(0, len(texts), 300):
        words, last = judge.encode([form(t) for t in texts[i : i + 300]])
        p = model(pictures[i : i + 300], words[:, None])[:, 0].softmax(-1)
        n = torch.arange(len(last))
        out.append(torch.stack([p[n, last - 3][:, YES], p[n, last][:, YES], p[n, last][:, NO]], 1))
    return torch.cat(out).view(len(prompts), args.each, 3)


pick = lambda score: marks.gather(1, score.argmax(1, keepdim=True))[:, 0].float()
outcome = ask(final, judge.outcome)[..., 1]
table(f"best of {args.each}", pick(outcome), 18 * args.each, args.each)
judged = range(1, 17)
middle = {}
alive = torch.ones_like(marks, dtype=torch.bool)
undecided = torch.ones_like(alive)
cost, asked = torch.full(marks.shape, 18.0), torch.zeros(marks.shape)
process, doubt = [], torch.ones(marks.shape)
clear_at = torch.full(marks.shape, 18.0)
for s in judged:
    pictures = decode(codes[:, s])
    if not args.no_process:
        process.append(ask(pictures, judge.process)[..., 1])
    clear, yes, no = ask(pictures, judge.clarity_and_potential).unbind(-1)
    now = undecided & (clear > 0.5)
    asked += undecided.float() + now.float()
    drop = now & (yes < no)
    clear_at[now] = s + 1
    doubt[now] = no[now]
    alive &= ~drop
    cost[drop] = s + 1
    undecided &= ~now
if process:
    table(f"process of {args.each}", pick(torch.stack(process).mean(0)), 18 * args.each, len(process) * args.each)
score = torch.where(alive, outcome, -1.0)
none = ~alive.any(1)
score[none] = -doubt[none]
steps = cost.sum(1) + none * (18 - cost.gather(1, score.argmax(1, keepdim=True))[:, 0])
table(f"PARM of {args.each}", pick(score), steps.mean().item(), (asked.sum(1) + alive.sum(1)).mean().item())
yes_share = marks[alive].float().mean().item(), marks[~alive].float().mean().item() if (~alive).any() else 0
log("evaluate", f"clear at step {clear_at.mean():.1f} on average, survivors {alive.float().sum(1).mean():.1f}; right among survivors {yes_share[0]:.3f}, dropped {yes_share[1]:.3f}")
