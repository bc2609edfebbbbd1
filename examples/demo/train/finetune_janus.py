"""Teaches Janus to judge what it draws, finished or not, while it goes on drawing and planning as before."""

import argparse
import random
import subprocess
import sys
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

import janus
import vq
from common import RUN, Trainer, WEIGHTS, log, to_float
from janus import NO, YES, Janus
from previews import KINDS, preview

args = argparse.ArgumentParser()
args.add_argument("data", nargs="+", help="names given to collect_janus.py")
args.add_argument("--name", default="janus-tuned")
args.add_argument("--start", default=str(WEIGHTS / "janus/model.safetensors"), help="weights to start from")
args.add_argument("--preview", choices=KINDS, help="the one way to show unfinished pictures; else all of them")
args.add_argument("--seconds", type=float, default=600, help="of processor time")
args.add_argument("--lr", type=float, default=4e-4)
args.add_argument("--muon-lr", type=float, default=0.006)
args.add_argument("--draw", type=float, default=1.0, help="weight of drawing and planning")
args.add_argument("--check", type=float, default=200, help="seconds between validations")
args.add_argument("--compare", action="store_true", help="only measure the ways to show unfinished pictures")
args.add_argument("--export", action="store_true", help="put the result among the bundled weights")
args.add_argument("--processes", type=int, default=1, help="processes that share every batch")
args.add_argument("--rank", type=int, default=0, help="set for the processes that the first one starts")
args = args.parse_args()
DRAWN, PLANS, FINAL, MIDDLE, NEAR = 48, 8, 12, 16, 4
torch.manual_seed(7)
if args.processes > 1:
    if args.rank == 0:
        (RUN / f"{args.name}.store").unlink(missing_ok=True)
        for rank in range(1, args.processes):
            subprocess.Popen([sys.executable, *sys.argv, "--rank", str(rank)])
    dist.init_process_group("gloo", init_method=f"file://{RUN}/{args.name}.store", rank=args.rank, world_size=args.processes)
    DRAWN, PLANS, FINAL, MIDDLE = (n // args.processes for n in (DRAWN, PLANS, FINAL, MIDDLE))
rng = np.random.default_rng(7 + args.rank)
random.seed(7 + args.rank)
data = [torch.load(RUN / "data" / f"{name}.pt", weights_only=True) for name in args.data]
texts = [t for d in data for t in d["texts"]]
asked = [a for d in data for a in d["asked"]]
pictures, marks, shown, clear = (torch.cat([d[k] for d in data]).long() for k in ("codes", "marks", "shown", "clear"))
scenes, short, long, written, plan_at = (x.long() for x in torch.load(RUN / "data" / "janus-scenes.pt", weights_only=True))
pixels = vq.load(RUN / "vq.safetensors")
ROWS = vq.GRID

# Whole prompts are kept for validation: what counts is ranking pictures of one unseen prompt.
prompts = sorted(set(texts))
random.Random(5).shuffle(prompts)
kept = set(prompts[: min(48, len(prompts) // 5)])
held = torch.tensor([t in kept for t in texts])
train, test = (~held).nonzero()[:, 0], held.nonzero()[:, 0]
groups = {}
for at, i in enumerate(test.tolist()):
    groups.setdefault(texts[i], []).append(at)
# Right and wrong pictures of one prompt weigh alike: the judge must tell them apart instead of learning which prompts
# are hard.
numbers = {}
for text, mark in zip(texts, marks.tolist()):
    numbers.setdefault(text, [0, 0])[mark] += 1
weight = torch.ones(len(texts))
for i, (text, mark) in enumerate(zip(texts, marks.tolist())):
    n = numbers[text]
    if min(n):
        weight[i] = min(6.0, 0.5 + 1.5 * sum(n) / (2 * n[mark]))
table = {}


def pack(questions):
    for q in {q for row in questions for q in row} - table.keys():
        words, last = janus.encode([q])
        table[q] = (words[0], last[0])
    words, last = zip(*(zip(*(table[q] for q in row)) for row in questions))
    return torch.stack([torch.stack(w) for w in words]), torch.stack([torch.stack(x) for x in last])


def answers(logits, last, back=0):
    index = (last - back)[..., None, None].expand(*last.shape, 1, logits.shape[-1])
    return logits.gather(2, index)[:, :, 0]


def within(scores, good):
    """Mean over held prompts with both answers of the chance that a right picture scores above a wrong one."""
    total, count = 0.0, 0
    for members in groups.values():
        m = torch.tensor(members)
        yes, no = scores[m][good[m] == 1], scores[m][good[m] == 0]
        if len(yes) and len(no):
            total += ((yes[:, None] > no).float() + 0.5 * (yes[:, None] == no).float()).mean().item()
            count += 1
    return total / max(1, count)


@torch.no_grad()
def ask(shadow, codes, kind, rows, form, mine):
    """Softmax at the clarity answer (where there is one) and at the last word."""
    out = []
    for part in torch.arange(len(codes)).split(120):
        x = to_float(preview(pixels, kind, codes[part], torch.full((len(part),), rows)))
        words, last = pack([[form(mine[i])] for i in part.tolist()])
        logits = shadow.answer(shadow.look(x), words)
        out.append(torch.stack([answers(logits, last, back)[:, 0].softmax(-1) for back in (janus.APART, 0)], 1))
    return torch.cat(out)


def check(state, kinds, rows):
    """Ranking within prompts, and searches over the held prompts simulated from all answers."""
    shadow = Janus()
    shadow.load_state_dict(state)
    shadow.eval()
    mine, codes, good = [texts[i] for i in test], pictures[test], marks[test]
    outcome = ask(shadow, codes, "repeat-row", ROWS, janus.outcome, mine)[:, 1, YES]
    figures = [f"step {t.steps} {t.spent:.0f}s AUC {within(outcome, good):.3f}"]
    mark, value = good.float(), 0.0
    for kind in kinds:
        undecided, alive = torch.ones(len(test), dtype=torch.bool), torch.ones(len(test), dtype=torch.bool)
        doubt, when, ranks, right = torch.ones(len(test)), torch.full((len(test),), float(ROWS)), [], []
        for row in rows:
            p = ask(shadow, codes, kind, row, janus.clarity_and_potential, mine)
            sure, yes, no = p[:, 0, YES] > p[:, 0, NO], p[:, 1, YES], p[:, 1, NO]
            ranks.append(within(yes / (yes + no), good))
            right.append((sure == (clear[test, row] == 1)).float().mean().item())
            now = undecided & sure
            doubt[now], when[now] = no[now], float(row)
            alive &= ~(now & (yes < no))
            undecided &= ~now
        parm = []
        for members in groups.values():
            m = torch.tensor(members)
            live = m[alive[m]]
            parm.append(mark[live[outcome[live].argmax()]] if len(live) else mark[m[doubt[m].argmin()]])
        figures.append(
            f"{kind}: potential {' '.join(f'{x:.3f}' for x in ranks)} clear right {sum(right) / len(right):.3f} at {when.mean():.1f}"
            f" survivors {alive.float().mean():.2f} parm {torch.stack(parm).mean():.3f}"
        )
        value = max(value, sum(ranks) / len(ranks))
    best = torch.stack([mark[m[outcome[m].argmax()]] for m in map(torch.tensor, groups.values())])
    plain = torch.stack([mark[m].mean() for m in map(torch.tensor, groups.values())])
    figures.append(f"plain {plain.mean():.3f} best {best.mean():.3f} oracle {torch.stack([mark[m].amax() for m in map(torch.tensor, groups.values())]).mean():.3f}")
    log(args.name, "; ".join(figures))


Trainer.clock = staticmethod(time.process_time)
model = janus.load(args.start).train()
start = {k: v.clone() for k, v in model.state_dict().items()}
matrices = [n for n, p in model.named_parameters() if "language_model.model.layers." in n and p.dim() == 2]
t = Trainer(model, args.name, args.seconds, matrices, lr=args.lr, muon_lr=args.muon_lr, warm=40, ema=0.995, floor=0.05)
if not t.steps:
    t.ema = start
if args.rank:
    t.saved = float("inf")
else:
    log(args.name, f"{len(texts)} pictures, {marks.float().mean():.2f} right; {len(kept)} prompts, {len(test)} pictures held")
if args.compare:
    check(start, KINDS, range(1, ROWS))
    raise SystemExit
shared = janus.Shared(t, args.processes)
torch.manual_seed(70 + args.rank + 2 * t.steps)
truth_ids = torch.tensor([NO, YES])
sums, count, checked = torch.zeros(5), 0, t.spent
while t.progress < 1:
    i = torch.from_numpy(rng.integers(0, len(scenes), DRAWN))
    text = (long if rng.random() < 0.25 else short)[i]
    text = torch.where((torch.rand(DRAWN) < 0.1)[:, None], janus.unconditional(text), text)
    j = torch.from_numpy(rng.integers(0, len(scenes), PLANS))
    f = train[torch.multinomial(weight[train], FINAL, replacement=True)]
    asks, truth = [], []
    for k in f.tolist():
        near = random.sample(asked[k][1:], NEAR)
        asks.append([janus.outcome(texts[k]), *(janus.outcome(q) for q, _ in near), janus.clarity_and_potential(texts[k])])
        truth.append([int(marks[k]), *(a for _, a in near), int(marks[k])])
    words, last = pack(asks)
    truth = truth_ids[torch.tensor(truth)]
    m = train[torch.multinomial(weight[train], MIDDLE, replacement=True)]
    rows = torch.randint(1, ROWS, (MIDDLE,))
    mine = [texts[k] for k in m.tolist()]
    words2, last2 = pack([[janus.process(x), janus.clarity_and_potential(x)] for x in mine])
    truth2 = truth_ids[torch.stack([shown[m, rows], marks[m]], 1)]
    kind = args.preview or random.choice(KINDS)
    x = to_float(preview(pixels, "repeat-row", pictures[f], torch.full((FINAL,), ROWS)))
    x2 = to_float(preview(pixels, kind, pictures[m], rows))
    with torch.autocast("cpu", torch.bfloat16):
        drawing = model.draw(text, scenes[i])
        writing = model.write(written[j, :-1])
        seen = model.look(torch.cat([x, x2]))
        logits, logits2 = model.answer(seen[:FINAL], words), model.answer(seen[FINAL:], words2)
    draw = F.cross_entropy(drawing.float().flatten(0, 1), scenes[i].flatten())
    behind = torch.arange(written.shape[1] - 1) >= plan_at[j, None] - 1
    plan = F.cross_entropy(writing.float()[behind], written[j, 1:][behind], ignore_index=-1)
    own = F.cross_entropy(answers(logits, last).flatten(0, 1), truth.flatten(), reduction="none").view(FINAL, -1)
    steps = F.cross_entropy(answers(logits2, last2).flatten(0, 1), truth2.flatten(), reduction="none").view(MIDDLE, -1)
    # What the first rows tell about the end matters little.
    informed = torch.where(clear[m, rows] == 1, 1.0, 0.3)
    is_clear = F.cross_entropy(answers(logits2[:, 1:], last2[:, 1:], janus.APART)[:, 0], truth_ids[clear[m, rows]])
    done_clear = F.cross_entropy(answers(logits[:, -1:], last[:, -1:], janus.APART)[:, 0], torch.full((FINAL,), YES))
    # The own prompt is what the search asks, so it weighs as much as its near misses together.
    loss = 2 * own[:, 0].mean() + 2 * own[:, 1:-1].mean() + 0.5 * own[:, -1].mean()
    loss = loss + 0.5 * steps[:, 0].mean() + 2 * (informed * steps[:, 1]).mean() + is_clear + 0.1 * done_clear
    shared.step(args.draw * (draw + 0.2 * plan) + loss / 4)
    sums, count = sums + torch.tensor([draw.item(), own[:, 0].mean().item(), own[:, 1:-1].mean().item(), steps[:, 1].mean().item(), is_clear.item()]), count + 1
    if t.steps % 50 == 0 and args.rank == 0:
        draw, own, near, potential, is_clear = (sums / count).tolist()
        print(t.steps, f"{t.spent:.0f}s codes {draw:.4f} own {own:.3f} near {near:.3f} potential {potential:.3f} clear {is_clear:.3f}", flush=True)
        sums.zero_()
        count = 0
    if t.spent - checked > args.check or t.progress >= 1:
        checked = t.spent
        if args.rank == 0:
            t.save()
            janus.export(t.ema, WEIGHTS / "janus" if args.export else RUN / args.name)
            check(t.ema, [args.preview] if args.preview else KINDS, range(3, ROWS))
        shared.wait()
