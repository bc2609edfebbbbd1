"""The VQ tokenizer of Janus under the names of the published state dict, at toy size, with a codebook learned by averages."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

from magvit import Attn, Res, norm

BASE, MULT, Z, EMBED, CODES = 8, [1, 2, 4, 6], 32, 8, 1024
ENCODER_BLOCKS, DECODER_BLOCKS = 1, 2
SIDE, GRID = 64, 8
CONFIG = {
    "base_channels": BASE,
    "norm_groups": 4,
    "codebook_size": CODES,
    "codebook_embed_dim": EMBED,
    "z_channels": Z,
    "ch_mult": MULT,
    "encoder_res_blocks": ENCODER_BLOCKS,
    "decoder_res_blocks": DECODER_BLOCKS,
    "grid": GRID,
}


class Level(nn.Module):
    """Residual blocks, attention after each where asked, a change of resolution."""

    def __init__(self, a, b, blocks, attention, resample):
        super().__init__()
        self.res = nn.ModuleList(Res(a if j == 0 else b, b) for j in range(blocks))
        if attention:
            self.attn = nn.ModuleList(Attn(b) for _ in range(blocks))
        if resample:
            module = nn.Module()
            down = resample == "downsample"
            module.conv = nn.Conv2d(b, b, 3, stride=2 if down else 1, padding=0 if down else 1)
            setattr(self, resample, module)

    def forward(self, x):
        for j, block in enumerate(self.res):
            x = block(x)
            if hasattr(self, "attn"):
                x = self.attn[j](x)
        if hasattr(self, "downsample"):
            x = self.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        if hasattr(self, "upsample"):
            x = self.upsample.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return x


class Half(nn.Module):
    """An encoder or a decoder: what differs is the order and where the middle stands."""

    def __init__(self, first, widths, blocks, resample, last):
        super().__init__()
        end = len(widths) - 1
        up = resample == "upsample"
        self.conv_in = nn.Conv2d(first, widths[0] if up else BASE, 3, padding=1)
        inputs = [widths[0] if up else BASE, *widths[:-1]]
        self.conv_blocks = nn.ModuleList(
            Level(inputs[i], widths[i], blocks, i == (0 if up else end), resample if i < end else None) for i in range(end + 1)
        )
        c = widths[0] if up else widths[-1]
        self.mid = nn.ModuleList([Res(c, c), Attn(c), Res(c, c)])
        self.norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], last, 3, padding=1)
        self.parts = [*self.mid, *self.conv_blocks] if up else [*self.conv_blocks, *self.mid]

    def forward(self, x):
        x = self.conv_in(x)
        for part in self.parts:
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Vq(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [BASE * m for m in MULT]
        self.encoder = Half(3, widths, ENCODER_BLOCKS, "downsample", Z)
        self.decoder = Half(Z, widths[::-1], DECODER_BLOCKS, "upsample", 3)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(Z, EMBED, 1), nn.Conv2d(EMBED, Z, 1)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(CODES, EMBED)
        self.quantize.embedding.weight.requires_grad = False
        nn.init.normal_(self.quantize.embedding.weight)
        # How much of a likeness a rare code must be ahead of a common one; only the trainers encode with it.
        self.register_buffer("rate", torch.zeros(CODES))

    def entries(self):
        return F.normalize(self.quantize.embedding.weight, dim=-1)

    def latents(self, x):
        """Unit latents [N, 64, EMBED]."""
        return F.normalize(self.quant_conv(self.encoder(x)).flatten(2).mT, dim=-1)

    def draw(self, latents):
        """Latents [N, 64, EMBED] to pictures."""
        return self.decoder(self.post_quant_conv(latents.mT.unflatten(2, (GRID, GRID))))

    def nearest(self, z):
        return (z @ self.entries().T - self.rate).argmax(-1)

    @torch.no_grad()
    def encode(self, x):
        return self.nearest(self.latents(x))

    @torch.no_grad()
    def decode(self, codes):
        return self.draw(self.entries()[codes])


def load(path):
    """The tokenizer as its trainer exports it, in f32."""
    model = Vq()
    model.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()})
    return model.eval().to(memory_format=torch.channels_last)
