"""Fine-tunes the judge on generated pictures and on predictions from the middle of their making."""

import argparse
import json
import random

import torch
import torch.nn.functional as F

import judge
from common import RUN, Trainer, WEIGHTS, log, save_half, to_float
from judge import NO, YES, Judge

args = argparse.ArgumentParser()
args.add_argument("data", nargs="+", help="names given to collect.py")
args.add_argument("--name", default="judge-tuned")
args.add_argument("--start", default="judge", help="checkpoint to start from")
args.add_argument("--seconds", type=float, default=600)
args.add_argument("--lr", type=float, default=5e-4)
args.add_argument("--muon-lr", type=float, default=0.006)
args.add_argument("--drawings", type=int, default=0, help="drawn pictures a step, against forgetting")
args.add_argument("--clear-weight", type=float, default=4.0)
args.add_argument("--export", action="store_true", help="put the best checkpoint among the bundled weights")
args.add_argument("--check", type=float, default=90, help="seconds between validations")
args = args.parse_args()
FINAL, MIDDLE, NEAR = 16, 20, 4
torch.manual_seed(4)
random.seed(4)
data = [torch.load(RUN / "data" / f"{name}.pt", weights_only=True) for name in args.data]
texts = [t for d in data for t in d["texts"]]
final, marks = torch.cat([d["final"] for d in data]), torch.cat([d["marks"] for d in data])
asked = [a for d in data for a in d["asked"]]
offsets = torch.tensor([0, *[len(d["texts"]) for d in data]]).cumsum(0)
owner = torch.cat([d["owner"] + o for d, o in zip(data, offsets)])
middle, clear, shown, step = (torch.cat([d[k] for d in data]) for k in ("middle", "clear", "shown", "step"))

# Whole prompts are kept for validation: what counts is ranking pictures of one unseen prompt.
prompts = sorted(set(texts))
random.Random(5).shuffle(prompts)
kept = set(prompts[: max(30, len(prompts) // 7)])
held = torch.tensor([t in kept for t in texts])
train_final, train_middle = (~held).nonzero()[:, 0], (~held[owner]).nonzero()[:, 0]
held_final, held_middle = held.nonzero()[:, 0], held[owner].nonzero()[:, 0]
# Right and wrong pictures of one prompt weigh alike: the judge must tell them apart instead of learning which prompts
# are hard, and "more likely than not" then halves the candidates of a prompt instead of keeping or dropping all.
numbers = {}
for text, mark in zip(texts, marks.tolist()):
    numbers.setdefault(text, [0, 0])[mark] += 1
weight = torch.ones(len(texts))
for i, (text, mark) in enumerate(zip(texts, marks.tolist())):
    n = numbers[text]
    if min(n):
        weight[i] = min(6.0, 0.5 + 1.5 * sum(n) / (2 * n[mark]))
weight_final, weight_middle = weight[train_final], weight[owner[train_middle]]
table = {}


def ids(text):
    if text not in table:
        words, last = judge.encode([text])
        table[text] = (words[0], last[0])
    return table[text]


def pack(questions):
    words, last = zip(*(zip(*(ids(q) for q in row)) for row in questions))
    return torch.stack([torch.stack(w) for w in words]), torch.stack([torch.stack(x) for x in last])


if args.drawings:
    with open(RUN / "data" / "judge.jsonl") as file:
        drawn = [json.loads(line)["questions"] for line in file][:29000]
    drawn_pictures = torch.load(RUN / "data" / "judge-pictures.pt", weights_only=True)

model = Judge()
start = torch.load(RUN / f"{args.start}.pt", weights_only=True)["ema"]
model.load_state_dict(start)
matrices = [n for n, p in model.named_parameters() if ".layers." in n and p.dim() == 2]
t = Trainer(model, args.name, args.seconds, matrices, lr=args.lr, muon_lr=args.muon_lr, warm=40, ema=0.99, floor=0.05)
if not t.steps:
    t.ema = {k: v.clone() for k, v in start.items()}
log(args.name, f"{len(texts)} pictures, {marks.float().mean():.2f} right; {len(owner)} states, {clear.float().mean():.2f} clear; {len(kept)} prompts held")


def answers(logits, last, back=0):
    index = (last - back)[..., None, None].expand(*last.shape, 1, logits.shape[-1])
    return logits.gather(2, index)[:, :, 0]


def within(scores, truth, groups):
    """Mean over groups with both answers of the chance that a right one scores above a wrong one."""
    total, count = 0.0, 0
    for g in set(groups):
        pick = torch.tensor([i for i, x in enumerate(groups) if x == g])
        good, bad = scores[pick][truth[pick] == 1], scores[pick][truth[pick] == 0]
        if len(good) and len(bad):
            total += ((good[:, None] > bad).float() + 0.5 * (good[:, None] == bad).float()).mean().item()
            count += 1
    return total / max(1, count)


@torch.no_grad()
def check():
    shadow = Judge()
    shadow.load_state_dict(t.ema)
    shadow.eval()
    held_texts = [texts[i] for i in held_final]
    scores = judge.p_yes(shadow, to_float(final[held_final]), [judge.outcome(x) for x in held_texts])
    accuracy = ((scores > 0.5).long() == marks[held_final]).float().mean().item()
    auc = within(scores, marks[held_final], held_texts)
    o = owner[held_middle]
    questions = [[judge.clarity_and_potential(texts[i])] for i in o]
    p_clear, potential = [], []
    for at in range(0, len(o), 200):
        words, last = pack(questions[at : at + 200])
        logits = shadow(to_float(middle[held_middle[at : at + 200]]), words)
        p_clear.append(answers(logits, last, 3)[:, 0].softmax(-1)[:, YES])
        potential.append(answers(logits, last)[:, 0].softmax(-1)[:, YES])
    p_clear, potential = torch.cat(p_clear), torch.cat(potential)
    seen = (clear[held_middle] == 1) & (step[held_middle] >= 4)
    if seen.any():
        pick = seen.nonzero()[:, 0]
        p_auc = within(potential[pick], marks[o[pick]], [texts[i] for i in o[pick]])
    else:
        p_auc = 0.5
    c = ((p_clear > 0.5).long() == clear[held_middle]).float().mean().item()
    log(args.name, f"step {t.steps} {t.spent:.0f}s accuracy {accuracy:.3f} AUC within prompts {auc:.3f}; clear {c:.3f}; potential AUC {p_auc:.3f}")
    t.pause()
    return auc + 0.5 * p_auc


best = check()
save_half(judge.exported(t.ema), RUN / args.name / "model.safetensors")
checked, sums = 0.0, torch.zeros(4)
truth_ids = torch.tensor([NO, YES])
while t.progress < 1:
    f = train_final[torch.multinomial(weight_final, FINAL, replacement=True)]
    rows, truth = [], []
    for i in f.tolist():
        near = random.sample(asked[i][1:], NEAR)
        rows.append([judge.outcome(texts[i]), *(judge.outcome(q) for q, _ in near), judge.clarity_and_potential(texts[i])])
        truth.append([int(marks[i]), *(a for _, a in near), int(marks[i])])
    words, last = pack(rows)
    truth = truth_ids[torch.tensor(truth)]
    m = train_middle[torch.multinomial(weight_middle, MIDDLE, replacement=True)]
    mine = [texts[i] for i in owner[m]]
    words2, last2 = pack([[judge.outcome(x), judge.process(x), judge.clarity_and_potential(x)] for x in mine])
    truth2 = truth_ids[torch.stack([shown[m], shown[m], marks[owner[m]]], 1)]
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(to_float(final[f]), words)
        logits2 = model(to_float(middle[m]), words2)
    finals = F.cross_entropy(answers(logits, last).flatten(0, 1), truth.flatten(), reduction="none").view(FINAL, -1)
    steps = F.cross_entropy(answers(logits2, last2).flatten(0, 1), truth2.flatten(), reduction="none").view(MIDDLE, -1)
    # The first steps tell little about the end, and nobody asks them once clarity works.
    informed = torch.where(step[m] < 5, 0.2, 1.0)
    is_clear = F.cross_entropy(answers(logits2, last2, 3)[:, 2], truth_ids[clear[m]])
    done_clear = F.cross_entropy(answers(logits, last, 3)[:, -1], torch.full((FINAL,), YES))
    # The own prompt is what the search asks, so it weighs as much as its near misses together.
    loss = 2 * finals[:, 0].mean() + 2 * finals[:, 1:-1].mean() + 0.5 * finals[:, -1].mean()
    loss = loss + steps[:, :2].mean() + 2 * (informed * steps[:, 2]).mean() + args.clear_weight * is_clear + 0.1 * done_clear
    if args.drawings:
        d = torch.randint(0, len(drawn), (args.drawings,))
        asks = [random.sample(drawn[i], 6) for i in d.tolist()]
        words3, last3 = pack([[judge.outcome(q) for q, _ in a] for a in asks])
        with torch.autocast("cpu", torch.bfloat16):
            logits3 = model(to_float(drawn_pictures[d]), words3)
        truth3 = truth_ids[torch.tensor([[a for _, a in row] for row in asks])]
        loss = loss + 2 * F.cross_entropy(answers(logits3, last3).flatten(0, 1), truth3.flatten())
    t.step(loss / 4, clip=5.0)
    sums += torch.tensor([finals[:, 0].mean().item(), finals[:, 1:-1].mean().item(), steps[:, 2].mean().item(), is_clear.item()])
    if t.steps % 100 == 0:
        print(t.steps, f"{t.spent:.0f}s own {sums[0] / 100:.3f} near {sums[1] / 100:.3f} potential {sums[2] / 100:.3f} clear {sums[3] / 100:.3f}", flush=True)
        sums.zero_()
    if t.spent - checked > args.check or t.progress >= 1:
        checked = t.spent
        now = check()
        if now > best:
            best = now
            save_half(judge.exported(t.ema), RUN / args.name / "model.safetensors")
            if args.export:
                save_half(judge.exported(t.ema), WEIGHTS / "judge/model.safetensors")
t.save()
log(args.name, f"best AUC + potential AUC / 2: {best:.3f}")
