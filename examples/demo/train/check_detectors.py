"""How often each exported detector reads a drawn task scene and its reconstruction exactly."""

import json

import numpy as np
import torch

import detector
import magvit
from common import RUN, WEIGHTS, drawn, log, to_float, to_u8, world

pictures, lines = drawn("train", 800, 777, "check")
x = to_float(np.array(pictures))
tokenizer = magvit.load(WEIGHTS / "magvitv2/pytorch_model.safetensors")
again = to_float(to_u8(torch.cat([tokenizer.decode(tokenizer.encode(part)) for part in x.split(200)])))
log("check", f"tokenizer on task scenes {(10 * torch.log10(4 / ((again - x) ** 2).mean((1, 2, 3)))).mean():.2f} dB")
for which in ("eval", "label"):
    model = detector.load(WEIGHTS / f"detectors/{which}.safetensors", which)
    for name, images in (("drawings", x), ("reconstructions", again)):
        readings = detector.read(model, images)
        exact = 0
        for line, seen in zip(lines, readings):
            left, missed = list(seen), False
            for kind, colour, size, x0, y0 in line["objects"]:
                cx, cy = x0 + size / 2, y0 + size / 2
                fits = [q for q in left if q[:2] == [kind, colour] and abs(q[2] - cx) < 6 and abs(q[3] - cy) < 6]
                missed |= not fits
                left = [q for q in left if q is not fits[0]] if fits else left
            exact += not left and not missed
        path = RUN / "check-readings.jsonl"
        path.write_text("".join(json.dumps({"prompt": line["prompt"], "seen": s}) + "\n" for line, s in zip(lines, readings)))
        log("check", f"{which} on {name}: exact {exact / len(lines):.3f}; {world('score', '--readings', path)}")
