"""Pre-trains the judge on drawings and their reconstructions, with questions whose answers the world knows."""

import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F

import judge
import magvit
from common import RUN, Trainer, WEIGHTS, drawn, log, save_half, to_float, to_u8, word_list
from judge import KINDS, NO, YES, Judge

args = argparse.ArgumentParser()
args.add_argument("--seconds", type=float, default=1500)
args.add_argument("--scenes", type=int, default=30000)
args = args.parse_args()
BATCH, ASKED, HELD = 32, 6, 1000
torch.manual_seed(3)
rng = np.random.default_rng(3)
pictures, lines = drawn("judge", args.scenes, 31, "judge")
cache = RUN / "data" / "judge-pictures.pt"
if not cache.exists():
    tokenizer = magvit.load(WEIGHTS / "magvitv2/pytorch_model.safetensors")
    parts = []
    for at in range(0, args.scenes, 200):
        x = to_float(pictures[at : at + 200])
        plain = (torch.rand(len(x), 1, 1, 1) < 0.2) & (torch.arange(at, at + len(x)) < args.scenes - HELD).view(-1, 1, 1, 1)
        parts.append(to_u8(torch.where(plain, x, tokenizer.decode(tokenizer.encode(x)))))
    torch.save(torch.cat(parts), cache)
pictures = torch.load(cache, weights_only=True)
train = args.scenes - HELD

# Every text is turned into ids once; a picture keeps its eight questions as rows of this table.
texts = sorted({q for line in lines for q, _ in line["questions"]})
row = {text: i for i, text in enumerate(texts)}
forms = [judge.outcome, judge.process, judge.clarity_and_potential]
tables, lasts = zip(*(judge.encode([form(text) for text in texts]) for form in forms))
asked = torch.tensor([[row[q] for q, _ in line["questions"]] for line in lines])
answers = torch.tensor([[a for _, a in line["questions"]] for line in lines])
kinds, colours = torch.zeros(args.scenes, 8, 8, dtype=torch.long), torch.zeros(args.scenes, 8, 8, dtype=torch.long)
for i, line in enumerate(lines):
    for kind, colour, size, x, y in line["objects"]:
        # A patch belongs to the object that covers its centre.
        rows, columns = slice((y + 3) // 8, (y + size + 3) // 8), slice((x + 3) // 8, (x + size + 3) // 8)
        kinds[i, rows, columns], colours[i, rows, columns] = kind + 1, colour + 1

model = Judge()
matrices = [n for n, p in model.named_parameters() if ".layers." in n and p.dim() == 2]
t = Trainer(model, "judge", args.seconds, matrices, lr=1.5e-3, muon_lr=0.02, warm=100, ema=0.997, floor=0.05)
log("judge", f"{sum(p.numel() for n, p in model.named_parameters() if 'patches' not in n)} parameters, from step {t.steps}")


def export():
    shadow = Judge()
    shadow.load_state_dict(t.ema)
    shadow.eval()
    right, yes = {}, 0
    for j in (0, 1, 2):
        p = judge.p_yes(shadow, to_float(pictures[train:]), [judge.outcome(texts[k]) for k in asked[train:, j]])
        for line, good in zip(lines[train:], ((p > 0.5).long() == answers[train:, j]).tolist()):
            right.setdefault(len(line["objects"]), []).append(good)
    total = sum(map(sum, right.values())) / sum(map(len, right.values()))
    log("judge", f"step {t.steps} {t.spent:.0f}s held-out accuracy {total:.3f} by objects { {k: round(np.mean(v), 3) for k, v in sorted(right.items())} }")
    out = WEIGHTS / "judge"
    save_half(judge.exported(t.ema), out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(judge.CONFIG, indent=1) + "\n")
    (out / "vocab.txt").write_text("\n".join(word_list("judge")) + "\n")
    t.pause()


sums = torch.zeros(2)
while t.progress < 1:
    i = torch.from_numpy(rng.integers(0, train, BATCH))
    pick = torch.rand(BATCH, 8).argsort(1)[:, :ASKED]
    which, truth = asked[i].gather(1, pick), answers[i].gather(1, pick)
    # The first four are outcome questions, then one about process and one about clarity and potential.
    words = torch.cat([tables[0][which[:, :4]], tables[1][which[:, 4:5]], tables[2][which[:, 5:6]]], 1)
    last = torch.cat([lasts[0][which[:, :4]], lasts[1][which[:, 4:5]], lasts[2][which[:, 5:6]]], 1)
    with torch.autocast("cpu", torch.bfloat16):
        logits, patches = model(to_float(pictures[i]), words, patches=True)
    at = logits.gather(2, last[..., None, None].expand(-1, -1, 1, logits.shape[-1]))[:, :, 0]
    answer = F.cross_entropy(at.flatten(0, 1), torch.where(truth == 1, YES, NO).flatten())
    # A finished picture is always clear: the answer three words before the end.
    clear = F.cross_entropy(logits[torch.arange(BATCH), 5, last[:, 5] - 3], torch.full((BATCH,), YES))
    under = F.cross_entropy(patches[..., : 1 + KINDS].flatten(0, 1), kinds[i].flatten())
    under = under + F.cross_entropy(patches[..., 1 + KINDS :].flatten(0, 1), colours[i].flatten())
    t.step(answer + 0.05 * clear + (1.0 if t.progress < 0.6 else 0.3) * under, clip=5.0)
    sums += torch.tensor([answer.item(), under.item()])
    if t.steps % 100 == 0:
        print(t.steps, f"{t.spent:.0f}s answer {sums[0] / 100:.4f} patches {sums[1] / 100:.4f}", flush=True)
        sums.zero_()
    if t.steps % 500 == 0:
        export()
t.save()
export()
