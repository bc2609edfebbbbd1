"""Show-o under the names of the published state dict, at toy size, with its sampler."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import word_list

WORDS = word_list("show-o")
INDEX = {w: i for i, w in enumerate(WORDS)}
LLM = len(WORDS)
PAD, SOI, EOI, T2I, BOS = LLM, LLM + 1, LLM + 2, LLM + 5, LLM - 1
FIRST_CODE, CODES, TOKENS, MAX_TEXT = LLM + 10, 1024, 64, 12
VOCAB = FIRST_CODE + CODES + 1
MASK = VOCAB - 1
HIDDEN, LAYERS, HEADS, INNER, THETA = 128, 6, 4, 512, 100.0
TEXT = MAX_TEXT + 1
LENGTH = TEXT + 1 + TOKENS + 1
CONFIG = {
    "model": "show-o",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "head_dim": HIDDEN // HEADS,
    "intermediate_size": INNER,
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-05,
    "partial_rotary_factor": 0.5,
    "rotary_dim": HIDDEN // HEADS // 2,
    "rope_theta": THETA,
    "qk_layernorm": True,
    "tie_word_embeddings": False,
    "vocab_size": VOCAB,
    "llm_vocab_size": LLM,
    "num_new_special_tokens": 10,
    "codebook_size": CODES,
    "num_vq_tokens": TOKENS,
    "max_text_len": MAX_TEXT,
    "image_token_offset": FIRST_CODE,
    "mask_token_id": MASK,
    **{f"{n}_id": LLM + i for i, n in enumerate(["pad", "soi", "eoi", "sov", "eov", "t2i", "mmu", "t2v", "v2v", "lvg"])},
    "bos_id": BOS,
    "eos_id": BOS,
    "soi_position": TEXT,
    "first_image_position": TEXT + 1,
    "sequence_length": LENGTH,
}


def text_ids(prompts):
    """[N, 13]: left pads, t2i, bos, words, eos."""
    out = torch.full((len(prompts), TEXT), PAD)
    for i, prompt in enumerate(prompts):
        ids = [T2I, BOS, *(INDEX[w] for w in prompt.split()), BOS]
        out[i, TEXT - len(ids) :] = torch.tensor(ids)
    return out


def rotate(x, cos, sin):
    r = cos.shape[-1]
    a, b = x[..., :r], x[..., r : 2 * r]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 2 * r :]], -1)


def additive(mask):
    return torch.zeros(mask.shape).masked_fill(~mask, -1e4)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.dense = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
        self.q_layernorm, self.k_layernorm = nn.LayerNorm(HIDDEN // HEADS), nn.LayerNorm(HIDDEN // HEADS)

    def forward(self, h, cos, sin, mask, past=None):
        n, length, _ = h.shape
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        bias = torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias])
        q, k, v = F.linear(h, weight, bias).view(n, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(self.q_layernorm(q.float()), cos, sin), rotate(self.k_layernorm(k.float()), cos, sin)
        v = v.float()
        now = (k, v)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        # Written out: at this size it is several times faster on a CPU than the fused kernel with a mask.
        scores = (q @ k.mT) * (HIDDEN // HEADS) ** -0.5 + mask
        a = scores.float().softmax(-1) @ v
        return self.dense(a.transpose(1, 2).reshape(n, length, HIDDEN)), now


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(HIDDEN, INNER), nn.Linear(INNER, HIDDEN)

    def forward(self, h):
        return self.fc2(F.gelu(self.fc1(h), approximate="tanh"))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm, self.self_attn, self.mlp = nn.LayerNorm(HIDDEN), Attention(), Mlp()

    def forward(self, x, *args):
        h = self.input_layernorm(x)
        a, now = self.self_attn(h, *args)
        return x + a + self.mlp(h), now


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.final_layernorm = nn.LayerNorm(HIDDEN)


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.model, self.lm_head = Backbone(), nn.Linear(HIDDEN, VOCAB)


class ShowO(nn.Module):
    def __init__(self):
        super().__init__()
        self.showo = Causal()
        half = HIDDEN // HEADS // 4
        angle = torch.arange(LENGTH).float()[:, None] * THETA ** (-torch.arange(half).float() / half)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, 0, 0.02 * (1.5 / math.sqrt(2 * LAYERS) if name.endswith(("dense.weight", "fc2.weight")) else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def head(self, x):
        """Logits of the codes alone."""
        cut = slice(FIRST_CODE, FIRST_CODE + CODES)
        return F.linear(self.showo.model.final_layernorm(x), self.showo.lm_head.weight[cut], self.showo.lm_head.bias[cut])

    def forward(self, text, image, pick=None):
        """Code logits at the image positions, or at those that `pick` marks."""
        n = len(text)
        edge = lambda t: torch.full((n, 1), t)
        x = self.showo.model.embed_tokens(torch.cat([text, edge(SOI), image, edge(EOI)], 1))
        real = torch.cat([text != PAD, torch.ones(n, LENGTH - TEXT, dtype=torch.bool)], 1)
        allowed = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        allowed[TEXT:] = True
        # A pad row sees itself only: nothing reads it, and a row without keys would be NaN.
        mask = (allowed & real[:, None]) | torch.eye(LENGTH, dtype=torch.bool)
        for layer in self.showo.model.layers:
            x, _ = layer(x, self.cos, self.sin, additive(mask[:, None]))
        x = x[:, TEXT + 1 : -1]
        return self.head(x if pick is None else x[pick])

    def prefix(self, text):
        """Keys and values of the text, and the mask of the rows that follow."""
        x = self.showo.model.embed_tokens(text)
        real = text != PAD
        mask = (torch.ones(TEXT, TEXT, dtype=torch.bool).tril() & real[:, None]) | torch.eye(TEXT, dtype=torch.bool)
        past = []
        for layer in self.showo.model.layers:
            x, now = layer(x, self.cos[:TEXT], self.sin[:TEXT], additive(mask[:, None]))
            past.append(now)
        rest = torch.ones(len(text), LENGTH - TEXT, dtype=torch.bool)
        return past, additive(torch.cat([real, rest], 1)[:, None, None])

    def after(self, prefix, image):
        past, mask = prefix
        edge = lambda t: torch.full((len(image), 1), t)
        x = self.showo.model.embed_tokens(torch.cat([edge(SOI), image, edge(EOI)], 1))
        for layer, kv in zip(self.showo.model.layers, past):
            x, _ = layer(x, self.cos[TEXT:], self.sin[TEXT:], mask, kv)
        return self.head(x[:, 1:-1])


@torch.no_grad()
def sample(model, prompts, seed, steps=18, w=2.0, start=None, first=0, bf16=True):
    """MaskGIT with guidance. Returns predictions [N, steps-first, 64] and states after each step (codes, -1 masked)."""
    n = len(prompts)
    draw = torch.Generator().manual_seed(seed)
    state = torch.full((n, TOKENS), -1) if start is None else start.clone()
    predictions, states = [], []
    temperature = 1.0
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        prefix = model.prefix(torch.cat([text_ids(prompts), text_ids([""] * n)] if w else [text_ids(prompts)]))
        for s in range(steps):
            ratio = (s + 1) / steps
            temperature *= 1 - ratio
            if s < first:
                continue
            ids = torch.where(state < 0, MASK, state + FIRST_CODE)
            if w:
                with_text, without = model.after(prefix, ids.repeat(2, 1)).float().chunk(2)
                logits = (1 + w) * with_text - w * without
            else:
                logits = model.after(prefix, ids).float()
            p = logits.softmax(-1)
            codes = (p / torch.empty_like(p).exponential_(generator=draw)).argmax(-1)
            unknown = state < 0
            codes = torch.where(unknown, codes, state)
            gumbel = -torch.log(torch.empty(n, TOKENS).exponential_(generator=draw).clamp(min=1e-20))
            score = p.gather(-1, codes[..., None])[..., 0].clamp(min=1e-20).log() + temperature * gumbel
            score = torch.where(unknown, score, 1e9)
            count = torch.minimum(torch.tensor(int(TOKENS * math.cos(ratio * math.pi / 2))), unknown.sum(1) - 1).clamp(min=1)
            cut = score.sort(1)[0].gather(1, count[:, None])
            state = torch.where(score < cut, -1, codes)
            predictions.append(codes)
            states.append(state)
    return torch.stack(predictions, 1), torch.stack(states, 1)


def load(path):
    from safetensors.torch import load_file

    model = ShowO()
    model.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()})
    return model.eval()
