"""Two small centre detectors: `eval` marks pictures, `label` makes training labels. They share nothing."""

import json

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

KINDS, COLOURS = 12, 8
CHANNELS = 1 + KINDS + COLOURS + 1
# in, out, kernel, stride, dilation; padding keeps the grid centred.
LAYERS = {
    "eval": [(3, 16, 3, 2, 1), (16, 40, 3, 2, 1), (40, 40, 3, 1, 1), (40, 40, 3, 1, 2), (40, 40, 3, 1, 3), (40, 64, 3, 1, 1)],
    "label": [(3, 24, 5, 4, 1), (24, 48, 3, 1, 1), (48, 48, 3, 1, 2), (48, 48, 3, 1, 4), (48, 48, 3, 1, 1), (48, 48, 3, 1, 1)],
}
STRIDE, GRID = 4, 16


class Detector(nn.Module):
    def __init__(self, which, folded=False):
        super().__init__()
        self.which = which
        layers = []
        for a, b, kernel, stride, dilation in LAYERS[which]:
            layers.append(nn.Conv2d(a, b, kernel, stride, dilation * (kernel // 2), dilation, bias=folded))
            if not folded:
                layers.append(nn.BatchNorm2d(b))
            layers.append(nn.ReLU())
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(LAYERS[which][-1][1], CHANNELS, 1)

    def forward(self, x):
        return self.head(self.body(x))

    def folded(self):
        """State of the equivalent net of convolutions with bias and ReLU."""
        out, i = {}, 0
        modules = list(self.body)
        while i < len(modules):
            conv, bn = modules[i], modules[i + 1]
            scale = bn.weight / (bn.running_var + bn.eps).sqrt()
            out[f"layers.{i // 3}.weight"] = conv.weight * scale[:, None, None, None]
            out[f"layers.{i // 3}.bias"] = bn.bias - bn.running_mean * scale
            i += 3
        out[f"layers.{len(LAYERS[self.which])}.weight"] = self.head.weight
        out[f"layers.{len(LAYERS[self.which])}.bias"] = self.head.bias
        return {k: v.detach() for k, v in out.items()}


def description(which):
    layers = [
        {"in": a, "out": b, "kernel": k, "stride": s, "padding": d * (k // 2), "dilation": d, "relu": True}
        for a, b, k, s, d in LAYERS[which]
    ]
    last = {"in": LAYERS[which][-1][1], "out": CHANNELS, "kernel": 1, "stride": 1, "padding": 0, "dilation": 1, "relu": False}
    return {
        "input": "u8 RGB 64x64 as x/127.5-1, channels first",
        "layers": [*layers, last],
        "grid": GRID,
        "stride": STRIDE,
        "channels": {"centre": [0, 1], "kind": [1, 1 + KINDS], "colour": [1 + KINDS, 1 + KINDS + COLOURS], "size": [CHANNELS - 1, CHANNELS]},
        "decode": {
            "centre": "sigmoid > 0.5 and the largest within 5x5",
            "kind": "softmax, largest must be > 0.5",
            "colour": "argmax",
            "size": "10*v + 22 pixels",
            "position": "x = 4*column + 2, y = 4*row + 2",
            "order": "descending sigmoid of the centre",
        },
    }


def export(model, path):
    state = {k: v.to(torch.float16).contiguous() for k, v in model.folded().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, str(path), metadata={"detector": json.dumps(description(model.which))})
    (path.parent / "config.json").write_text(json.dumps({w: description(w) for w in LAYERS}, indent=1) + "\n")


def load(path, which):
    model = Detector(which, folded=True)
    state, n = load_file(str(path)), len(LAYERS[which])
    convs = [m for m in model.body if isinstance(m, nn.Conv2d)] + [model.head]
    for i in range(n + 1):
        convs[i].weight.data.copy_(state[f"layers.{i}.weight"].float())
        convs[i].bias.data.copy_(state[f"layers.{i}.bias"].float())
    return model.eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def read(model, x, batch=256):
    """What is seen in each picture: lists of [kind, colour, x, y, size], best first."""
    out = []
    for part in x.split(batch):
        o = model(part)
        heat = o[:, 0].sigmoid()
        peak = (heat > 0.5) & (heat >= F.max_pool2d(heat[:, None], 5, 1, 2)[:, 0])
        p, kind = o[:, 1 : 1 + KINDS].softmax(1).max(1)
        colour = o[:, 1 + KINDS : 1 + KINDS + COLOURS].argmax(1)
        size = o[:, -1] * 10 + 22
        found = [[] for _ in range(len(part))]
        for b, r, c in (peak & (p > 0.5)).nonzero().tolist():
            found[b].append(
                (heat[b, r, c].item(), [kind[b, r, c].item(), colour[b, r, c].item(), c * 4 + 2.0, r * 4 + 2.0, round(size[b, r, c].item(), 2)])
            )
        out += [[seen for _, seen in sorted(f, key=lambda q: -q[0])] for f in found]
    return out
