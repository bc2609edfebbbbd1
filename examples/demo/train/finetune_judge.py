"""Fine-tunes the judge on generated pictures and on predictions from the middle of their making."""

import argparse
import random

import torch
import torch.nn.functional as F

import judge
import magvit
from common import RUN, Trainer, WEIGHTS, log, save_half, to_float, to_u8
from judge import NO, YES, Judge

args = argparse.ArgumentParser()
args.add_argument("data", nargs="+", help="names given to collect.py and label.py")
args.add_argument("--name", default="judge-tuned")
args.add_argument("--start", default=str(WEIGHTS / "judge/model.safetensors"), help="weights to start from")
args.add_argument("--seconds", type=float, default=600)
args.add_argument("--lr", type=float, default=3e-4)
args.add_argument("--muon-lr", type=float, default=0.003)
args.add_argument("--rivals", type=float, default=3.0, help="weight of pictures that their prompt's outcome question likes")
args.add_argument("--check", type=float, default=300, help="seconds between validations")
args.add_argument("--export", action="store_true", help="put the best checkpoint among the bundled weights")
args = args.parse_args()
FINAL, MIDDLE, NEAR = 16, 24, 4
# Steps, counted from 0, whose predictions may be asked about; the last prediction is the picture itself.
FIRST, STEPS = 2, 18
torch.manual_seed(4)
random.seed(4)
data = [torch.load(RUN / "data" / f"{name}.pt", weights_only=True) for name in args.data]
texts = [t for d in data for t in d["texts"]]
asked = [a for d in data for a in d["asked"]]
predictions, marks, shown, clear = (torch.cat([d[k] for d in data]) for k in ("predictions", "marks", "shown", "clear"))
tokenizer = magvit.load(WEIGHTS / "magvitv2/pytorch_model.safetensors")


@torch.no_grad()
def decode(codes):
    return torch.cat([to_u8(tokenizer.decode(c.long())) for c in codes.split(200)])


# Whole prompts are kept for validation: what counts is ranking pictures of one unseen prompt.
prompts = sorted(set(texts))
random.Random(5).shuffle(prompts)
kept = set(prompts[: min(60, len(prompts) // 6)])
held = torch.tensor([t in kept for t in texts])
train, test = (~held).nonzero()[:, 0], held.nonzero()[:, 0]
test = torch.tensor(sorted(test.tolist(), key=lambda i: (texts[i], i)))
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
table = {}


def ids(text):
    if text not in table:
        words, last = judge.encode([text])
        table[text] = (words[0], last[0])
    return table[text]


def pack(questions):
    words, last = zip(*(zip(*(ids(q) for q in row)) for row in questions))
    return torch.stack([torch.stack(w) for w in words]), torch.stack([torch.stack(x) for x in last])


def answers(logits, last, back=0):
    index = (last - back)[..., None, None].expand(*last.shape, 1, logits.shape[-1])
    return logits.gather(2, index)[:, :, 0]


model = judge.load(args.start).train()
start = {k: v.clone() for k, v in model.state_dict().items()}
matrices = [n for n, p in model.named_parameters() if ".layers." in n and p.dim() == 2]
t = Trainer(model, args.name, args.seconds, matrices, lr=args.lr, muon_lr=args.muon_lr, warm=40, ema=0.995, floor=0.05)
if not t.steps:
    t.ema = start
log(args.name, f"{len(texts)} pictures, {marks.float().mean():.2f} right; {len(kept)} prompts, {len(test)} pictures held")
finals = decode(predictions[:, -1])
with torch.no_grad():
    first = judge.load(args.start)
    liked = torch.cat([judge.p_yes(first, to_float(finals[i]), [judge.outcome(texts[k]) for k in i.tolist()]) for i in torch.arange(len(texts)).split(200)])
# Candidates that the outcome question ranks in the upper half of their prompt compete for the win: there a wrong
# "yes" to the potential question costs most, and there it can say what the outcome question does not know.
groups = {}
for i, text in enumerate(texts):
    groups.setdefault(text, []).append(i)
rival = torch.ones(len(texts))
for members in groups.values():
    order = sorted(members, key=lambda i: -liked[i].item())
    rival[order[: len(order) // 2]] = args.rivals
weight_final, weight_middle = weight[train], (weight * rival)[train]


def within(scores):
    """Mean over held prompts with both answers of the chance that a right one scores above a wrong one."""
    total, count = 0.0, 0
    for members in rows.values():
        good, bad = scores[members][marks[test[members]] == 1], scores[members][marks[test[members]] == 0]
        if len(good) and len(bad):
            total += ((good[:, None] > bad).float() + 0.5 * (good[:, None] == bad).float()).mean().item()
            count += 1
    return total / max(1, count)


rows = {}
for at, i in enumerate(test.tolist()):
    rows.setdefault(texts[i], []).append(at)
middle = {s: decode(predictions[test, s]) for s in range(5, STEPS - 1, 2)}


@torch.no_grad()
def check():
    """Searches over the held prompts, simulated from all answers, and ranking within prompts."""
    shadow = Judge()
    shadow.load_state_dict(t.ema)
    shadow.eval()
    mine = [texts[i] for i in test]
    outcome = judge.p_yes(shadow, to_float(finals[test]), [judge.outcome(x) for x in mine])
    words, last = pack([[judge.clarity_and_potential(x)] for x in mine])
    undecided, alive = torch.ones(len(test), dtype=torch.bool), torch.ones(len(test), dtype=torch.bool)
    doubt, when = torch.ones(len(test)), torch.full((len(test),), STEPS + 1.0)
    ranks, right = [], []
    for s, pictures in middle.items():
        logits = torch.cat([shadow(to_float(pictures[i]), words[i]) for i in torch.arange(len(test)).split(200)])
        p_clear = answers(logits, last, 3)[:, 0].softmax(-1)[:, YES]
        p = answers(logits, last)[:, 0].softmax(-1)
        ranks.append(within(p[:, YES]))
        right.append(((p_clear > 0.5) == (clear[test, s] == 1)).float().mean().item())
        now = undecided & (p_clear > 0.5)
        doubt[now], when[now] = p[now, NO], s + 1.0
        alive &= ~(now & (p[:, YES] < p[:, NO]))
        undecided &= ~now
    alive &= ~undecided
    mark = marks[test].float()
    best, parm, plain = [], [], []
    for members in rows.values():
        m = torch.tensor(members)
        plain.append(mark[m].mean())
        best.append(mark[m[outcome[m].argmax()]])
        live = m[alive[m]]
        parm.append(mark[live[outcome[live].argmax()]] if len(live) else mark[m[doubt[m].argmin()]])
    plain, best, parm = (torch.stack(x).mean().item() for x in (plain, best, parm))
    auc = within(outcome)
    log(
        args.name,
        f"step {t.steps} {t.spent:.0f}s AUC {auc:.3f}, potential {' '.join(f'{x:.2f}' for x in ranks)};"
        f" clear right {sum(right) / len(right):.3f}, at {when.mean():.1f}, survivors {alive.float().mean():.2f};"
        f" plain {plain:.3f} best {best:.3f} parm {parm:.3f}",
    )
    t.pause()
    return auc + sum(ranks[3:]) / len(ranks[3:])


best = check()
save_half(judge.exported(t.ema), RUN / args.name / "model.safetensors")
checked, sums = 0.0, torch.zeros(4)
truth_ids = torch.tensor([NO, YES])
while t.progress < 1:
    f = train[torch.multinomial(weight_final, FINAL, replacement=True)]
    asks, truth = [], []
    for i in f.tolist():
        near = random.sample(asked[i][1:], NEAR)
        asks.append([judge.outcome(texts[i]), *(judge.outcome(q) for q, _ in near), judge.clarity_and_potential(texts[i])])
        truth.append([int(marks[i]), *(a for _, a in near), int(marks[i])])
    words, last = pack(asks)
    truth = truth_ids[torch.tensor(truth)]
    m = train[torch.multinomial(weight_middle, MIDDLE, replacement=True)]
    s = torch.randint(FIRST, STEPS - 1, (MIDDLE,))
    mine = [texts[i] for i in m]
    words2, last2 = pack([[judge.outcome(x), judge.process(x), judge.clarity_and_potential(x)] for x in mine])
    truth2 = truth_ids[torch.stack([shown[m, s].long(), shown[m, s].long(), marks[m]], 1)]
    with torch.autocast("cpu", torch.bfloat16):
        pictures = decode(predictions[m, s])
        logits = model(to_float(finals[f]), words)
        logits2 = model(to_float(pictures), words2)
    own = F.cross_entropy(answers(logits, last).flatten(0, 1), truth.flatten(), reduction="none").view(FINAL, -1)
    steps = F.cross_entropy(answers(logits2, last2).flatten(0, 1), truth2.flatten(), reduction="none").view(MIDDLE, -1)
    # Potential is asked where it is clear; what the first steps tell about the end matters little.
    informed = torch.where(clear[m, s] == 1, 1.0, 0.3)
    is_clear = F.cross_entropy(answers(logits2, last2, 3)[:, 2], truth_ids[clear[m, s].long()])
    done_clear = F.cross_entropy(answers(logits, last, 3)[:, -1], torch.full((FINAL,), YES))
    # The own prompt is what the search asks, so it weighs as much as its near misses together.
    loss = 2 * own[:, 0].mean() + 2 * own[:, 1:-1].mean() + 0.5 * own[:, -1].mean()
    loss = loss + steps[:, :2].mean() + 2 * (informed * steps[:, 2]).mean() + is_clear + 0.1 * done_clear
    t.step(loss / 4, clip=5.0)
    sums += torch.tensor([own[:, 0].mean().item(), own[:, 1:-1].mean().item(), steps[:, 2].mean().item(), is_clear.item()])
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
log(args.name, f"best AUC + potential AUC: {best:.3f}")
