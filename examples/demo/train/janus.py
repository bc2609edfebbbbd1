"""Janus under the names of the original state dict, at toy size: it draws code by code, writes plans and judges."""

import json
import math

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

import vq
from common import RUN, WEIGHTS, save_half, word_list

WORDS = word_list("janus")
INDEX = {w: i for i, w in enumerate(WORDS)}
YES, NO = INDEX["yes"], INDEX["no"]
BEGIN, END, PAD = (INDEX[f"<\uff5c{w}\uff5c>"] for w in ("begin\u2581of\u2581sentence", "end\u2581of\u2581sentence", "\u2581pad\u2581"))
OPEN, CLOSE, USER, SELF = (INDEX[w] for w in ("<begin_of_image>", "<end_of_image>", "<|User|>", "<|Assistant|>"))
CODES, TOKENS, GRID = vq.CODES, vq.GRID**2, vq.GRID
SIZE, PATCH, PATCHES = 64, 8, 64
VISION, VISION_LAYERS, VISION_HEADS, VISION_INNER = 96, 4, 4, 384
HIDDEN, LAYERS, HEADS, INNER, THETA = 128, 5, 4, 320, 100.0
HEAD = HIDDEN // HEADS
# Words of a prompt, of a plan, and the longest question with the answer to it in between.
PROMPT, PLAN, LONGEST = 10, 11, 19
FRONT = 3 + PATCHES + 1
POSITIONS = 192
BOS, EOS = WORDS[BEGIN], WORDS[END]
ASK = f"{BOS}<|User|><begin_of_image><image><end_of_image> {{prompt}} "
CONFIG = {
    "model": "janus-pro",
    "vision": {
        "image_size": SIZE,
        "patch_size": PATCH,
        "hidden_size": VISION,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": VISION_HEADS,
        "intermediate_size": VISION_INNER,
        "layer_norm_eps": 1e-6,
        "min_size": PATCH,
    },
    "vq": vq.CONFIG,
    "text": {
        "vocab_size": len(WORDS),
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-6,
        "rope_theta": THETA,
        "max_position_embeddings": 1024,
    },
    "gen_embed_dim": vq.EMBED,
    "gen_head_hidden": HIDDEN,
    "max_prompt_len": 32,
    "max_plan_len": 16,
    "yes_id": YES,
    "no_id": NO,
    "templates": {
        "draw": f"{BOS}<|User|> {{prompt}} <|Assistant|><begin_of_image>",
        "plan": f"{BOS}<|User|> {{prompt}} plan ? <|Assistant|>",
        "outcome": ASK + "match ? <|Assistant|>",
        "process": ASK + "process ? <|Assistant|>",
        "clarity": ASK + "clear ? <|Assistant|>",
        "potential": f"yes {EOS}<|User|> potential ? <|Assistant|>",
    },
}


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def additive(allowed):
    return torch.zeros(allowed.shape).masked_fill(~allowed, -1e4)


class VisionLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(VISION, eps=1e-6), nn.LayerNorm(VISION, eps=1e-6)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(VISION, 3 * VISION), nn.Linear(VISION, VISION)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(VISION, VISION_INNER), nn.Linear(VISION_INNER, VISION)

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = self.attn.qkv(self.norm1(x)).view(n, length, 3, VISION_HEADS, -1).permute(2, 0, 3, 1, 4)
        p = ((q @ k.mT).float() * (VISION // VISION_HEADS) ** -0.5).softmax(-1)
        x = x + self.attn.proj((p.to(v.dtype) @ v).transpose(1, 2).reshape(n, length, VISION))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class TextLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(HIDDEN, eps=1e-6), nn.RMSNorm(HIDDEN, eps=1e-6)
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self.self_attn, name, nn.Linear(HIDDEN, HIDDEN, bias=False))
        self.mlp.gate_proj, self.mlp.up_proj = nn.Linear(HIDDEN, INNER, bias=False), nn.Linear(HIDDEN, INNER, bias=False)
        self.mlp.down_proj = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, x, cos, sin, mask):
        n, length, _ = x.shape
        a, h = self.self_attn, self.input_layernorm(x)
        weight = torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight])
        q, k, v = F.linear(h, weight).view(n, length, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        q, k = rotate(q.float(), cos, sin), rotate(k.float(), cos, sin)
        # Written out: at this size it is several times faster on a CPU than the fused kernel with a mask.
        p = ((q @ k.mT) * HEAD**-0.5 + mask).float().softmax(-1)
        x = x + a.o_proj((p.to(v.dtype) @ v).transpose(1, 2).reshape(n, length, HIDDEN))
        h = self.post_attention_layernorm(x)
        return x + self.mlp.down_proj(F.silu(self.mlp.gate_proj(h)) * self.mlp.up_proj(h))


def pair(a, b, c):
    """Two layers with GELU between them, numbered as the checkpoints number them."""
    module = nn.Module()
    module.layers = nn.ModuleList([nn.Linear(a, b), nn.GELU(), nn.Linear(b, c)])
    return module


def through(module, x):
    for layer in module.layers:
        x = layer(x)
    return x


class Janus(nn.Module):
    """Everything but the image tokenizer, whose weights lie in a file of their own while it trains."""

    def __init__(self):
        super().__init__()
        lm = self.language_model = nn.Module()
        lm.model = nn.Module()
        lm.model.embed_tokens = nn.Embedding(len(WORDS), HIDDEN)
        lm.model.layers = nn.ModuleList(TextLayer() for _ in range(LAYERS))
        lm.model.norm = nn.RMSNorm(HIDDEN, eps=1e-6)
        lm.lm_head = nn.Linear(HIDDEN, len(WORDS), bias=False)
        self.gen_embed = nn.Embedding(CODES, vq.EMBED)
        self.gen_aligner = pair(vq.EMBED, HIDDEN, HIDDEN)
        self.gen_head = nn.Module()
        self.gen_head.output_mlp_projector = nn.Linear(HIDDEN, HIDDEN)
        self.gen_head.vision_head = nn.Linear(HIDDEN, CODES)
        self.aligner = pair(VISION, HIDDEN, HIDDEN)
        self.vision_model = nn.Module()
        v = self.vision_model.vision_tower = nn.Module()
        v.patch_embed = nn.Module()
        v.patch_embed.proj = nn.Conv2d(3, VISION, PATCH, PATCH)
        v.pos_embed = nn.Parameter(torch.randn(1, PATCHES, VISION) * 0.02)
        v.blocks = nn.ModuleList(VisionLayer() for _ in range(VISION_LAYERS))
        v.norm = nn.LayerNorm(VISION, eps=1e-6)
        nn.init.normal_(lm.model.embed_tokens.weight, 0, 0.05)
        for name, p in lm.named_parameters():
            if p.dim() == 2 and "embed" not in name:
                nn.init.normal_(p, 0, 0.02 * (1.5 / math.sqrt(2 * LAYERS) if name.endswith(("o_proj.weight", "down_proj.weight")) else 1))
        half = HEAD // 2
        angle = torch.arange(POSITIONS).float()[:, None] * THETA ** (-torch.arange(half).float() / half)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def warm_tower(self, path=WEIGHTS / "judge/model.safetensors"):
        """The tower of the bundled judge, as Janus's own began as SigLIP: same shape but for the last norm."""
        old = {k.rsplit("vision_model.", 1)[1]: w.float() for k, w in load_file(str(path)).items() if "vision_model." in k}
        v = self.vision_model.vision_tower
        with torch.no_grad():
            v.patch_embed.proj.weight.copy_(old["embeddings.patch_embedding.weight"])
            v.patch_embed.proj.bias.copy_(old["embeddings.patch_embedding.bias"])
            v.pos_embed.copy_(old["embeddings.position_embedding.weight"][None])
            for i, block in enumerate(v.blocks):
                part = lambda name: old[f"encoder.layers.{i}.{name}"]
                for kind in ("weight", "bias"):
                    getattr(block.attn.qkv, kind).copy_(torch.cat([part(f"self_attn.{x}_proj.{kind}") for x in "qkv"]))
                    getattr(block.attn.proj, kind).copy_(part(f"self_attn.out_proj.{kind}"))
                    for mine, theirs in ((block.norm1, "layer_norm1"), (block.norm2, "layer_norm2"), (block.mlp.fc1, "mlp.fc1"), (block.mlp.fc2, "mlp.fc2")):
                        getattr(mine, kind).copy_(part(f"{theirs}.{kind}"))

    def stack(self, x, place, mask):
        for layer in self.language_model.model.layers:
            x = layer(x, self.cos[place], self.sin[place], mask)
        return self.language_model.model.norm(x.float())

    def words(self, ids):
        return self.language_model.model.embed_tokens(ids.clamp(min=0))

    def draw(self, text, codes):
        """Logits of every code: text [B,T] left padded with -1, codes [B,64]."""
        n, t = text.shape
        x = torch.cat([self.words(text), through(self.gen_aligner, self.gen_embed(codes[:, :-1])).float()], 1)
        total = x.shape[1]
        real = torch.cat([text >= 0, torch.ones(n, total - t, dtype=torch.bool)], 1)
        # A pad row sees itself only: nothing reads it, and a row without keys would be NaN.
        allowed = (torch.ones(total, total, dtype=torch.bool).tril() & real[:, None]) | torch.eye(total, dtype=torch.bool)
        x = self.stack(x, torch.arange(total), additive(allowed[:, None]))[:, t - 1 :]
        return self.gen_head.vision_head(F.gelu(self.gen_head.output_mlp_projector(x)))

    def write(self, text):
        """Logits over the vocabulary behind every word: text [B,T] right padded with -1."""
        allowed = torch.ones(text.shape[1], text.shape[1], dtype=torch.bool).tril()
        return self.language_model.lm_head(self.stack(self.words(text), torch.arange(text.shape[1]), additive(allowed)))

    def look(self, x):
        """Rows of the tower before its last norm."""
        v = self.vision_model.vision_tower
        y = v.patch_embed.proj(x).flatten(2).mT + v.pos_embed
        for block in v.blocks:
            y = block(y)
        return y

    def answer(self, seen, words):
        """Logits over the vocabulary at every word of packed questions: seen from `look`, words [B,Q,T] right padded with -1."""
        n, q, length = words.shape
        edge = lambda *ids: self.words(torch.tensor(ids)).expand(n, -1, -1)
        rows = through(self.aligner, self.vision_model.vision_tower.norm(seen.float())).float()
        y = torch.cat([edge(BEGIN, USER, OPEN), rows, edge(CLOSE), self.words(words).view(n, q * length, HIDDEN)], 1)
        block = torch.cat([torch.zeros(FRONT, dtype=torch.long), 1 + torch.arange(q).repeat_interleave(length)])
        total = FRONT + q * length
        allowed = torch.ones(total, total, dtype=torch.bool).tril() & ((block[:, None] == block) | (block == 0))
        place = torch.cat([torch.arange(FRONT), FRONT + torch.arange(length).repeat(q)])
        y = self.stack(y, place, additive(allowed))[:, FRONT:]
        return self.language_model.lm_head(y).float().view(n, q, length, -1)


class Shared:
    """Steps on gradients, and by a clock, that are the mean over all processes that share the batches."""

    def __init__(self, trainer, processes):
        self.trainer, self.processes, self.loss = trainer, processes, None
        self.agreed = self.own = self.last = trainer.spent

    def step(self, loss):
        if self.processes == 1:
            return self.trainer.step(loss, clip=5.0)
        self.loss, t = loss, self.trainer
        t.step(self, clip=5.0)
        self.own += t.spent - self.last
        self.last = t.spent = self.agreed

    def backward(self):
        """Called by the trainer in place of the loss's own."""
        self.loss.backward()
        mine = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        flat = torch.cat([*(g.flatten() for g in mine), torch.tensor([self.own])]) / self.processes
        dist.all_reduce(flat)
        for g, part in zip(mine, flat[:-1].split([g.numel() for g in mine])):
            g.copy_(part.view_as(g))
        self.agreed = flat[-1].item()

    def wait(self):
        """Lets the others catch up with the process that evaluates, outside the clock."""
        if self.processes > 1:
            dist.barrier()
        self.trainer.pause()


def ids(text):
    return [INDEX[w] for w in text.split()]


def drawn_text(prompts, plans=None):
    """[N, T]: what stands before a picture's codes, left padded with -1."""
    width = 4 + PROMPT + (PLAN if plans else 0)
    out = torch.full((len(prompts), width), -1)
    for i, prompt in enumerate(prompts):
        row = [BEGIN, USER, *ids(prompt), *(ids(plans[i]) if plans else []), SELF, OPEN]
        out[i, width - len(row) :] = torch.tensor(row)
    return out


def unconditional(text):
    """What guidance leads away from: pads for all but the first and the last token."""
    inner = (text >= 0) & (text != BEGIN)
    inner[:, -1] = False
    return torch.where(inner, PAD, text)


def planned_text(prompts, plans):
    """[N, T] right padded with -1, and the index of each plan's first word."""
    out = torch.full((len(prompts), 5 + PROMPT + PLAN + 1), -1)
    first = torch.zeros(len(prompts), dtype=torch.long)
    for i, (prompt, plan) in enumerate(zip(prompts, plans)):
        before = [BEGIN, USER, *ids(prompt), INDEX["plan"], INDEX["?"], SELF]
        row = [*before, *ids(plan), END]
        out[i, : len(row)], first[i] = torch.tensor(row), len(before)
    return out, first


def encode(questions):
    """Word ids [Q, LONGEST] (right padded with -1) and the index of each question's last word."""
    out, last = torch.full((len(questions), LONGEST), -1), torch.zeros(len(questions), dtype=torch.long)
    for i, text in enumerate(questions):
        row = ids(text)
        out[i, : len(row)] = torch.tensor(row)
        last[i] = len(row) - 1
    return out, last


def outcome(prompt):
    return f"{prompt} match ? <|Assistant|>"


def process(prompt):
    return f"{prompt} process ? <|Assistant|>"


def clarity_and_potential(prompt):
    """One sequence: the clarity answer is read at the first turn's end, the potential answer at the last word."""
    return f"{prompt} clear ? <|Assistant|> yes {EOS} <|User|> potential ? <|Assistant|>"


# Words between the two answers of `clarity_and_potential`.
APART = 6


def export(state, path):
    """The folder that is bundled: the model and, under its name, the image tokenizer without its encoder."""
    whole = load_file(str(RUN / "vq.safetensors"))
    pixels = {f"gen_vision_model.{k}": w for k, w in whole.items() if not k.startswith(("encoder.", "quant_conv.", "rate"))}
    save_half({**state, **pixels}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")


def load(path):
    model = Janus()
    model.load_state_dict({k: w.float() for k, w in load_file(str(path)).items() if not k.startswith("gen_vision_model.")})
    return model.eval()
