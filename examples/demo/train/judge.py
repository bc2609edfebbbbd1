"""LLaVA-OneVision under the names of the published state dict, at toy size, with packed questions."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import word_list

WORDS = word_list("judge")
INDEX = {w: i for i, w in enumerate(WORDS)}
YES, NO = INDEX["yes"], INDEX["no"]
SIZE, PATCH, PATCHES = 64, 8, 64
VISION, VISION_LAYERS, VISION_HEADS, VISION_INNER = 96, 4, 4, 384
HIDDEN, LAYERS, HEADS, KV, HEAD, INNER = 128, 4, 4, 2, 32, 336
THETA = 10000.0
KINDS, COLOURS = 12, 8
TEMPLATES = {
    "outcome": "<image> {prompt} match ?",
    "process": "<image> {prompt} process ?",
    "clarity": "<image> {prompt} clear ?",
    "potential": "yes potential ?",
}
CONFIG = {
    "model": "llava-onevision",
    "vision": {
        "image_size": SIZE,
        "patch_size": PATCH,
        "grid": SIZE // PATCH,
        "num_patches": PATCHES,
        "hidden_size": VISION,
        "num_attention_heads": VISION_HEADS,
        "intermediate_size": VISION_INNER,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-06,
        "num_layers_kept": VISION_LAYERS,
        "num_layers_in_siglip_checkpoint": VISION_LAYERS + 1,
    },
    "text": {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV,
        "head_dim": HEAD,
        "intermediate_size": INNER,
        "vocab_size": len(WORDS),
        "rope_theta": THETA,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": True,
        "qkv_bias": True,
    },
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "image_token_index": -200,
    "yes_id": YES,
    "no_id": NO,
    "image_aspect_ratio": "pad",
    "prompt": {"text_before_image": 0, "text_after_image": 15},
    "templates": TEMPLATES,
}
# Image rows and the newline row come before every question.
FRONT = PATCHES + 1
LONGEST = 15


class VisionLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(VISION, eps=1e-6), nn.LayerNorm(VISION, eps=1e-6)
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self.self_attn, name, nn.Linear(VISION, VISION))
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(VISION, VISION_INNER), nn.Linear(VISION_INNER, VISION)

    def forward(self, x):
        n, length, _ = x.shape
        a, h = self.self_attn, self.layer_norm1(x)
        q, k, v = (f(h).view(n, length, VISION_HEADS, -1).transpose(1, 2) for f in (a.q_proj, a.k_proj, a.v_proj))
        p = ((q @ k.mT).float() * (VISION // VISION_HEADS) ** -0.5).softmax(-1)
        x = x + a.out_proj((p.to(v.dtype) @ v).transpose(1, 2).reshape(n, length, VISION))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.layer_norm2(x)), approximate="tanh"))


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class TextLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(HIDDEN, eps=1e-6), nn.RMSNorm(HIDDEN, eps=1e-6)
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        self.self_attn.q_proj = nn.Linear(HIDDEN, HEADS * HEAD)
        self.self_attn.k_proj, self.self_attn.v_proj = nn.Linear(HIDDEN, KV * HEAD), nn.Linear(HIDDEN, KV * HEAD)
        self.self_attn.o_proj = nn.Linear(HEADS * HEAD, HIDDEN, bias=False)
        self.mlp.gate_proj, self.mlp.up_proj = nn.Linear(HIDDEN, INNER, bias=False), nn.Linear(HIDDEN, INNER, bias=False)
        self.mlp.down_proj = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, x, cos, sin, mask):
        n, length, _ = x.shape
        a, h = self.self_attn, self.input_layernorm(x)
        q = a.q_proj(h).view(n, length, HEADS, HEAD).transpose(1, 2).float()
        k = a.k_proj(h).view(n, length, KV, HEAD).transpose(1, 2).float()
        v = a.v_proj(h).view(n, length, KV, HEAD).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = k.repeat_interleave(HEADS // KV, 1), v.repeat_interleave(HEADS // KV, 1)
        p = ((q @ k.mT).float() * HEAD**-0.5 + mask).softmax(-1)
        x = x + a.o_proj((p.to(v.dtype) @ v).transpose(1, 2).reshape(n, length, HEADS * HEAD))
        h = self.post_attention_layernorm(x)
        return x + self.mlp.down_proj(F.silu(self.mlp.gate_proj(h)) * self.mlp.up_proj(h))


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        m = self.model = nn.Module()
        m.embed_tokens = nn.Embedding(len(WORDS), HIDDEN)
        m.layers = nn.ModuleList(TextLayer() for _ in range(LAYERS))
        m.norm = nn.RMSNorm(HIDDEN, eps=1e-6)
        m.image_newline = nn.Parameter(torch.randn(HIDDEN) * 0.05)
        m.mm_projector = nn.Sequential(nn.Linear(VISION, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN))
        m.vision_tower = nn.Module()
        m.vision_tower.vision_tower = nn.Module()
        v = m.vision_tower.vision_tower.vision_model = nn.Module()
        v.embeddings, v.encoder = nn.Module(), nn.Module()
        v.embeddings.patch_embedding = nn.Conv2d(3, VISION, PATCH, PATCH)
        v.embeddings.position_embedding = nn.Embedding(PATCHES, VISION)
        v.encoder.layers = nn.ModuleList(VisionLayer() for _ in range(VISION_LAYERS))
        # Trained beside the answers and left out of the export: kind and colour under each patch.
        self.patches = nn.Linear(VISION, 1 + KINDS + 1 + COLOURS)
        nn.init.normal_(m.embed_tokens.weight, 0, 0.05)
        nn.init.normal_(v.embeddings.position_embedding.weight, 0, 0.02)
        angle = torch.arange(FRONT + LONGEST).float()[:, None] * THETA ** (-torch.arange(HEAD // 2).float() / (HEAD // 2))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def look(self, x):
        v = self.model.vision_tower.vision_tower.vision_model
        y = v.embeddings.patch_embedding(x).flatten(2).mT + v.embeddings.position_embedding.weight
        for layer in v.encoder.layers:
            y = layer(y)
        return y

    def forward(self, x, words, patches=False):
        """Logits over the vocabulary at every word: x [B,3,64,64], words [B,Q,T] right padded with -1."""
        m = self.model
        seen = self.look(x)
        n, q, length = words.shape
        front = torch.cat([m.mm_projector(seen), m.image_newline.expand(n, 1, HIDDEN)], 1)
        y = torch.cat([front, m.embed_tokens(words.clamp(min=0)).view(n, q * length, HIDDEN).to(front.dtype)], 1)
        block = torch.cat([torch.zeros(FRONT, dtype=torch.long), 1 + torch.arange(q).repeat_interleave(length)])
        total = FRONT + q * length
        allowed = torch.ones(total, total, dtype=torch.bool).tril() & ((block[:, None] == block) | (block == 0))
        mask = torch.zeros(total, total).masked_fill(~allowed, -1e4)
        place = torch.cat([torch.arange(FRONT), FRONT + torch.arange(length).repeat(q)])
        for layer in m.layers:
            y = layer(y, self.cos[place], self.sin[place], mask)
        logits = F.linear(m.norm(y[:, FRONT:].float()), m.embed_tokens.weight).view(n, q, length, -1)
        return (logits, self.patches(seen).float()) if patches else logits


def encode(questions):
    """Word ids [Q, 15] (right padded with -1) and the index of each question's last word."""
    out, last = torch.full((len(questions), LONGEST), -1), torch.zeros(len(questions), dtype=torch.long)
    for i, text in enumerate(questions):
        ids = [INDEX[w] for w in text.split()]
        out[i, : len(ids)] = torch.tensor(ids)
        last[i] = len(ids) - 1
    return out, last


def outcome(prompt):
    return f"{prompt} match ?"


def process(prompt):
    return f"{prompt} process ?"


def clarity_and_potential(prompt):
    """One sequence: the clarity answer is read at the first "?", the potential answer at the last."""
    return f"{prompt} clear ? yes potential ?"


def exported(state):
    return {k: v for k, v in state.items() if not k.startswith("patches")}


@torch.no_grad()
def p_yes(model, x, questions, batch=200):
    """Softmax probability of "yes" at the last word of one question a picture."""
    out = []
    for i in range(0, len(questions), batch):
        words, last = encode(questions[i : i + batch])
        logits = model(x[i : i + batch], words[:, None])[:, 0]
        out.append(logits[torch.arange(len(last)), last].softmax(-1)[:, YES])
    return torch.cat(out)


def load(path):
    from safetensors.torch import load_file

    model = Judge()
    model.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()}, strict=False)
    return model.eval()
