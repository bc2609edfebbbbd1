"""MAGVIT-v2 with a lookup-free quantiser, under the names of the published state dict."""

import torch
import torch.nn as nn
import torch.nn.functional as F

CONFIG = {
    "model": "magvit-v2",
    "base_channels": 8,
    "norm_groups": 4,
    "norm_eps": 1e-6,
    "codebook_bits": 10,
    "codebook_size": 1024,
    "z_channels": 10,
    "encoder_ch_mult": [1, 3, 5, 8],
    "decoder_ch_mult": [1, 2, 4, 8],
    "encoder_res_blocks": [1, 1, 1, 2],
    "decoder_res_blocks": [1, 1, 2, 2],
    "image_size": 64,
    "grid": 8,
}
BITS = CONFIG["codebook_bits"]
# Channel 0 is the most significant bit.
POWERS = 2 ** torch.arange(BITS - 1, -1, -1)


def norm(c):
    return nn.GroupNorm(CONFIG["norm_groups"], c, eps=CONFIG["norm_eps"])


class Res(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.norm1, self.conv1 = norm(a), nn.Conv2d(a, b, 3, padding=1)
        self.norm2, self.conv2 = norm(b), nn.Conv2d(b, b, 3, padding=1)
        if a != b:
            self.nin_shortcut = nn.Conv2d(a, b, 1)

    def forward(self, x):
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attn(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = norm(c)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).mT for f in (self.q, self.k, self.v))
        a = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
        return x + self.proj_out(a.mT.reshape(x.shape))


class Mid(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = Res(c, c), Attn(c), Res(c, c)

    def forward(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    def __init__(self, a, b, blocks, resample):
        super().__init__()
        self.block = nn.ModuleList(Res(a if j == 0 else b, b) for j in range(blocks))
        if resample:
            module = nn.Module()
            module.conv = nn.Conv2d(b, b, 3, stride=2 if resample == "downsample" else 1, padding=0 if resample == "downsample" else 1)
            setattr(self, resample, module)

    def forward(self, x):
        for block in self.block:
            x = block(x)
        if hasattr(self, "downsample"):
            x = self.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        if hasattr(self, "upsample"):
            x = self.upsample.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return x


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [CONFIG["base_channels"] * m for m in CONFIG["encoder_ch_mult"]]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, CONFIG["base_channels"], 3, padding=1)
        inputs = [CONFIG["base_channels"], *widths]
        self.down = nn.ModuleList(
            Level(inputs[i], widths[i], CONFIG["encoder_res_blocks"][i], "downsample" if i < last else None)
            for i in range(last + 1)
        )
        self.mid = Mid(widths[-1])
        self.norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], BITS, 3, padding=1)
        self.quant_conv = nn.Conv2d(BITS, BITS, 1)

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.quant_conv(self.conv_out(F.silu(self.norm_out(self.mid(x)))))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [CONFIG["base_channels"] * m for m in CONFIG["decoder_ch_mult"]]
        self.post_quant_conv = nn.Conv2d(BITS, BITS, 1)
        self.conv_in = nn.Conv2d(BITS, widths[-1], 3, padding=1)
        self.mid = Mid(widths[-1])
        inputs = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            Level(inputs[i], widths[i], CONFIG["decoder_res_blocks"][i], "upsample" if i else None) for i in range(len(widths))
        )
        self.norm_out, self.conv_out = norm(widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z):
        x = self.mid(self.conv_in(self.post_quant_conv(z)))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Magvit(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()

    def forward(self, x):
        z = self.encoder(x)
        bits = torch.where(z > 0, 1.0, -1.0)
        return self.decoder(z + (bits - z).detach()), z, bits

    @torch.no_grad()
    def encode(self, x):
        """Pictures in -1..1 to codes [N, 64]."""
        return ((self.encoder(x) > 0).long() * POWERS[:, None, None]).sum(1).flatten(1)

    @torch.no_grad()
    def decode(self, codes):
        bits = ((codes[..., None] // POWERS) % 2).float() * 2 - 1
        return self.decoder(bits.view(-1, 8, 8, BITS).permute(0, 3, 1, 2))


def load(path):
    """The exported tokenizer, in f32."""
    from safetensors.torch import load_file

    model = Magvit()
    model.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()})
    return model.eval().to(memory_format=torch.channels_last)
