"""Fine-tunes a judge on generated pictures after one of the paper's three recipes, for comparison: none of them is bundled.

`orm`: half of the outcome items. `prm`: states with rollouts, yes if any end shows the prompt. `parm`: 70 % of the outcome
items beside clarity and potential. An outcome item is a finished picture with its prompt, and four prompts near it.
"""

import argparse
import random

import torch
import torch.nn.functional as F

import judge
import magvit
from common import RUN, Trainer, WEIGHTS, log, save_half, to_float, to_u8
from judge import NO, YES, Judge

args = argparse.ArgumentParser()
args.add_argument("recipe", choices=["orm", "prm", "parm"])
args.add_argument("data", nargs="+", help="names given to collect.py and label.py")
args.add_argument("--held", required=True, help="labelled pictures for validation; their prompts of several objects or colours are not trained on")
args.add_argument("--start", required=True, help="weights to start from")
args.add_argument("--name")
args.add_argument("--passes", type=float, default=1, help="how often an item is seen")
args.add_argument("--lr", type=float, default=3e-4)
args.add_argument("--muon-lr", type=float, default=0.003)
args.add_argument("--checks", type=int, default=3, help="validations, the last one at the end")
args.add_argument("--each", type=int, default=8, help="held pictures of a prompt that a validation looks at")
args.add_argument("--clear", type=int, default=11, help="steps after this one are clear, those before the one before are not")
args = args.parse_args()
name = args.name or f"recipe-{args.recipe}"
FINAL, MIDDLE, NEAR, STEPS = 16, 16, 4, 18
# As in collect.py.
SETTLED, ROLLOUTS = 4, 3
torch.manual_seed(4)
random.seed(4)


def read(names):
    data = [torch.load(RUN / "data" / f"{name}.pt", weights_only=True) for name in names]
    for d in data:
        d.setdefault("hopeful", torch.full((len(d["texts"]), STEPS), -1))
    joined = {k: torch.cat([d[k] for d in data]) for k in ("predictions", "marks", "hopeful")}
    return joined | {k: [x for d in data for x in d[k]] for k in ("texts", "asked")}


held = read([args.held])
data = read(args.data)
# Single objects are too few to hold any back.
forbidden = {t for t in held["texts"] if len(t.split()) > 5}
ours = torch.tensor([i for i, t in enumerate(data["texts"]) if t not in forbidden])
texts, asked, predictions, marks = data["texts"], data["asked"], data["predictions"], data["marks"]
tokenizer = magvit.load(WEIGHTS / "magvitv2/pytorch_model.safetensors")


@torch.no_grad()
def decode(codes):
    return torch.cat([to_u8(tokenizer.decode(c.long())) for c in codes.split(200)])


# Right and wrong pictures of one prompt weigh alike: the judge must tell them apart instead of learning which prompts
# are hard, and "more likely than not" then halves the candidates of a prompt instead of keeping or dropping all.
numbers = {}
for i in ours.tolist():
    numbers.setdefault(texts[i], [0, 0])[marks[i]] += 1
weight = torch.ones(len(texts))
for i in ours.tolist():
    n = numbers[texts[i]]
    if min(n):
        weight[i] = min(6.0, 0.5 + 1.5 * sum(n) / (2 * n[marks[i]]))
share = {"orm": 0.5, "prm": 1.0, "parm": 0.7}[args.recipe]
shuffled = ours[torch.randperm(len(ours), generator=torch.Generator().manual_seed(5))]
items = shuffled[: round(share * len(shuffled))]
if args.recipe == "prm":
    steps = round(args.passes * len(items) * 300 / 288 / MIDDLE)
else:
    steps = round(args.passes * len(items) / FINAL)


if args.recipe == "prm":
    # Four codes or fewer settle nothing: any pictures of the prompt are ends of such a state. The last state is its end.
    hopeful, of_text = data["hopeful"].clone(), {}
    for i in ours.tolist():
        of_text.setdefault(texts[i], []).append(i)
    for i in ours.tolist():
        for step in range(SETTLED):
            hopeful[i, step] = max(marks[j] for j in (i, *random.choices(of_text[texts[i]], k=ROLLOUTS)))
    hopeful[:, -1] = marks
    known = [[i for i in items.tolist() if hopeful[i, step] >= 0] for step in range(STEPS)]


class Counted(Trainer):
    """The schedule goes by steps: every item is seen as often as asked for, however busy the machine is."""

    @property
    def progress(self):
        return min(1.0, self.steps / steps)


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
t = Counted(model, name, 1.0, matrices, lr=args.lr, muon_lr=args.muon_lr, warm=40, ema=0.99, floor=0.02)
if not t.steps:
    t.ema = start
of_prompt = {}
for i, text in enumerate(held["texts"]):
    of_prompt.setdefault(text, []).append(i)
looked = [i for members in of_prompt.values() for i in members[: args.each]]
held_texts, held_marks = [held["texts"][i] for i in looked], held["marks"][looked]
rows = {}
for i, text in enumerate(held_texts):
    rows.setdefault(text, []).append(i)
log(name, f"{len(items)} items of {len(texts)}, {marks[items].float().mean():.2f} right, {steps} steps; {len(rows)} prompts held")


def within(scores, truth):
    """Mean over held prompts with both answers of the chance that a right one scores above a wrong one."""
    total, count = 0.0, 0
    for members in rows.values():
        good, bad = scores[members][truth[members] == 1], scores[members][truth[members] == 0]
        if len(good) and len(bad):
            total += ((good[:, None] > bad).float() + 0.5 * (good[:, None] == bad).float()).mean().item()
            count += 1
    return total / max(1, count)


# What the outcome question sees, and two late predictions.
seen = {s: decode(held["predictions"][looked, s]) for s in (11, 15, STEPS - 1)}


@torch.no_grad()
def check():
    """How well the judge ranks the held pictures of a prompt; larger is better."""
    shadow = Judge()
    shadow.load_state_dict(t.ema)
    shadow.eval()
    form = judge.process if args.recipe == "prm" else judge.outcome
    p = judge.p_yes(shadow, to_float(seen[STEPS - 1]), [form(x) for x in held_texts])
    result = within(p, held_marks)
    best = torch.stack([held_marks[m[p[m].argmax()]].float() for m in map(torch.tensor, rows.values())]).mean()
    text = f"AUC {result:.3f}, best of {args.each} {best:.3f} of {held_marks.float().mean():.3f}"
    if args.recipe != "orm":
        form, ranks = judge.process if args.recipe == "prm" else judge.clarity_and_potential, []
        words, last = pack([[form(x)] for x in held_texts])
        for s in (11, 15):
            logits = torch.cat([shadow(to_float(seen[s][i]), words[i]) for i in torch.arange(len(words)).split(200)])
            ranks.append(within(answers(logits, last)[:, 0].softmax(-1)[:, YES], held_marks))
            text += f"; step {s + 1} AUC {ranks[-1]:.3f}"
            if args.recipe == "parm":
                text += f" clear {(answers(logits, last, 3)[:, 0].softmax(-1)[:, YES] > 0.5).float().mean():.2f}"
        result += sum(ranks) / len(ranks)
    log(name, f"step {t.steps} {t.spent:.0f}s {text}")
    t.pause()
    return result


def steps_of(n):
    """Steps, counted from 0: a part early enough to be unclear, the rest late enough to be clear."""
    early = torch.rand(n) < 0.4
    unclear = torch.randint(0, args.clear - 2, (n,))
    return torch.where(early, unclear, torch.randint(args.clear, STEPS, (n,)))


def states_of(n):
    """Pictures and steps of which it is known what ends they have; every step is as likely."""
    m, s = [], torch.randint(0, STEPS, (n,))
    for step in s.tolist():
        m.append(random.choice(known[step]))
    return torch.tensor(m), s


def draw(n, weights):
    return items[torch.multinomial(weights[items], n, replacement=True)]


best = check()
save_half(judge.exported(t.ema), RUN / name / "model.safetensors")
truth_ids = torch.tensor([NO, YES])
sums, counted = torch.zeros(3), 0
while t.progress < 1:
    losses = torch.zeros(3)
    if args.recipe != "prm":
        f = draw(FINAL, weight)
        asks, truth = [], []
        for i in f.tolist():
            near = random.sample(asked[i][1:], NEAR)
            asks.append([judge.outcome(texts[i]), *(judge.outcome(q) for q, _ in near)])
            truth.append([int(marks[i]), *(a for _, a in near)])
        words, last = pack(asks)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(to_float(decode(predictions[f, -1])), words)
        own = F.cross_entropy(answers(logits, last).flatten(0, 1), truth_ids[torch.tensor(truth)].flatten(), reduction="none").view(FINAL, -1)
        # The own prompt is what the search asks, so it weighs as much as its near misses together.
        loss = 2 * own[:, 0].mean() + 2 * own[:, 1:].mean()
        losses[0] = own[:, 0].mean().detach()
    if args.recipe == "parm":
        m, s = draw(MIDDLE, weight), steps_of(MIDDLE)
        words, last = pack([[judge.clarity_and_potential(texts[i])] for i in m])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(to_float(decode(predictions[m, s])), words)
        late = s >= args.clear
        clear = F.cross_entropy(answers(logits, last, 3)[:, 0], truth_ids[late.long()])
        potential = F.cross_entropy(answers(logits, last)[:, 0], truth_ids[marks[m]], reduction="none")[late].sum() / MIDDLE
        loss = loss + 0.5 * clear + 2 * potential
        losses[1:] = torch.tensor([clear.item(), potential.item()])
    if args.recipe == "prm":
        m, s = states_of(MIDDLE)
        words, last = pack([[judge.process(texts[i])] for i in m])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(to_float(decode(predictions[m, s])), words)
        own = F.cross_entropy(answers(logits, last)[:, 0], truth_ids[hopeful[m, s].long()])
        loss = 4 * own
        losses[0] = own.detach()
    t.step(loss / 4, clip=5.0)
    sums, counted = sums + losses, counted + 1
    if t.steps % 50 == 0:
        print(t.steps, f"{t.spent:.0f}s", " ".join(f"{x:.3f}" for x in sums / counted), flush=True)
        sums, counted = torch.zeros(3), 0
    if t.steps * args.checks // steps != (t.steps - 1) * args.checks // steps:
        now = check()
        if now > best:
            best = now
            save_half(judge.exported(t.ema), RUN / name / "model.safetensors")
t.save()
log(name, f"best {best:.3f}")
