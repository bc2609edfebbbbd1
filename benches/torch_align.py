"""PyTorch and PEFT beside `align_cost`: a DPO step of adapters at Show-o's released shape, on the CPU. A pair is 546 rows and
287 labels, as there; weights are random and frozen, in F32 (a CPU of PyTorch has no products with 8-bit blocks that go
backwards), adapters of rank 16 stand beside all linear layers of the blocks.

    python benches/torch_align.py [--layers 24] [--steps 3] [--threads 2] [--checkpoint]
"""
import argparse
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

WIDTH, HEADS, INNER, ROTARY, CODES = 2048, 32, 8192, 32, 8192
ROWS, LABELS = 273, (144, 143)
TARGETS = ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"]


def rotate(x, cos, sin):
    turned, kept = x[..., :ROTARY], x[..., ROTARY:]
    a, b = turned.chunk(2, -1)
    return torch.cat((turned * cos + torch.cat((-b, a), -1) * sin, kept), -1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.q_norm, self.k_norm = nn.LayerNorm(WIDTH // HEADS), nn.LayerNorm(WIDTH // HEADS)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.dense, self.fc1, self.fc2 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x, mask, cos, sin):
        normed = self.norm(x)
        heads = lambda y: y.view(*y.shape[:-1], HEADS, -1).transpose(-2, -3)
        q = rotate(self.q_norm(heads(self.q_proj(normed))), cos, sin)
        k = rotate(self.k_norm(heads(self.k_proj(normed))), cos, sin)
        seen = F.scaled_dot_product_attention(q, k, heads(self.v_proj(normed)), attn_mask=mask)
        seen = self.dense(seen.transpose(-2, -3).flatten(-2))
        return x + seen + self.fc2(F.gelu(self.fc1(normed), approximate="tanh"))


class Model(nn.Module):
    def __init__(self, layers, again):
        super().__init__()
        self.blocks, self.norm, self.again = nn.ModuleList(Block() for _ in range(layers)), nn.LayerNorm(WIDTH), again
        self.head = nn.Linear(WIDTH, CODES)

    def forward(self, x, rows, labels, mask, cos, sin):
        for block in self.blocks:
            if self.again and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, cos, sin, use_reentrant=False)
            else:
                x = block(x, mask, cos, sin)
        return F.log_softmax(self.head(self.norm(x[rows])), -1).gather(-1, labels[:, None]).sum()


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--layers", type=int, default=24)
    args.add_argument("--steps", type=int, default=3)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--checkpoint", action="store_true", help="blocks are computed again on the way back")
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model = get_peft_model(Model(args.layers, args.checkpoint), LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    turns = torch.outer(torch.arange(ROWS), 1e4 ** (-torch.arange(0, ROTARY, 2) / ROTARY)).repeat(1, 2)
    # The text sees what stands before it, the picture everything.
    mask = torch.ones(ROWS, ROWS, dtype=torch.bool)
    mask[:15] = torch.tril(mask)[:15]
    pair = [(torch.randn(ROWS, WIDTH), torch.arange(ROWS - n, ROWS), torch.randint(CODES, (n,))) for n in LABELS]
    of = lambda example: model(*example, mask, turns.cos(), turns.sin())
    took = {"reference": [], "step": []}
    for _ in range(args.steps):
        begin = time.perf_counter()
        with torch.no_grad(), model.disable_adapter():
            before = [of(example) for example in pair]
        took["reference"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        chosen, rejected = (of(example) - reference for example, reference in zip(pair, before))
        loss = -F.logsigmoid(0.1 * (chosen - rejected))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        took["step"].append(time.perf_counter() - begin)
        print(f"loss {loss.item():.6f}", flush=True)
    print(f"torch {torch.__version__}, {args.threads} threads, {sum(p.numel() for p in trained)} numbers are trained")
    for name, seconds in took.items():
        print(f"{name}: {statistics.median(seconds):.3f} s a pair, median of {len(seconds)}")
    print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
