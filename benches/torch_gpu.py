"""PyTorch on the same card, in the shapes that `kernel_report` and `measure` run: rates, products, steps, judgements, and PARM
as the released scripts do it, one candidate after the other. Weights are random, in BF16; attention is PyTorch's own.

    python benches/torch_gpu.py [--only rates,products,janus,show_o,judge,parm] [--compile]

A line a measurement; the median of a few. `graph` replays a CUDA graph, which leaves out what Python costs.
"""
import argparse
import statistics
import time

import torch
import torch.nn.functional as F

GPU = torch.device("cuda")
BF16 = torch.bfloat16


def once(call):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def eager(call, times=7):
    for _ in range(2):
        call()
    return statistics.median(once(call) for _ in range(times))


def graph(call, times=7):
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
        side.synchronize()
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded, stream=side):
            call()
    torch.cuda.synchronize()
    return statistics.median(once(recorded.replay) for _ in range(times + 2))


def tell(name, ms, more=""):
    print(f"{name:<60} {ms:10.3f} ms  {more}", flush=True)


def randn(*shape):
    return torch.randn(*shape, device=GPU, dtype=BF16) * 0.02


def rates():
    x = torch.empty(1 << 30, dtype=torch.uint8, device=GPU)
    y = torch.empty_like(x)
    ms = eager(lambda: y.copy_(x))
    tell("copy of 1 GiB", ms, f"{2 * x.numel() / ms / 1e6:.0f} GB/s")
    a, b = randn(8192, 8192), randn(8192, 8192)
    ms = eager(lambda: a @ b)
    tell("bf16 product of 8192^3", ms, f"{2 * 8192**3 / ms / 1e9:.0f} TFLOP/s")


def products():
    for n, k in ((4096, 4096), (8192, 8192), (22016, 4096)):
        w = [randn(n, k) for _ in range(max(2, (512 << 20) // (2 * n * k)))]
        for m in (1, 4, 8, 20, 40, 64, 768):
            x = randn(m, k)
            ms = graph(lambda: [F.linear(x, each) for each in w]) / len(w)
            tell(f"linear m{m} n{n} k{k}", ms, f"{2 * n * k / ms / 1e6:.0f} GB/s, {2e-9 * m * n * k / ms:.1f} TFLOP/s")


def rms(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Llama:
    """Layers of a decoder with a gated MLP."""

    def __init__(self, layers, width, heads, kv_heads, mlp, rows, batch):
        self.width, self.heads, self.kv_heads, self.dim = width, heads, kv_heads, width // heads
        kv = kv_heads * self.dim
        self.layers = [
            dict(
                n1=randn(width), n2=randn(width), qkv=randn(width + 2 * kv, width), out=randn(width, width),
                up=randn(2 * mlp, width), down=randn(width, mlp),
                k=randn(batch, kv_heads, rows, self.dim), v=randn(batch, kv_heads, rows, self.dim),
            )
            for _ in range(layers)
        ]
        self.cos, self.sin = randn(rows, self.dim), randn(rows, self.dim)
        self.norm = randn(width)

    def layer(self, p, x, at, seen, causal):
        b, t, _ = x.shape
        kv = self.kv_heads * self.dim
        q, k, v = F.linear(rms(x, p["n1"]), p["qkv"]).split((self.width, kv, kv), -1)
        q, k, v = (z.view(b, t, -1, self.dim).transpose(1, 2) for z in (q, k, v))
        cos, sin = self.cos[at : at + t], self.sin[at : at + t]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        p["k"][:b, :, at : at + t] = k
        p["v"][:b, :, at : at + t] = v
        a = F.scaled_dot_product_attention(
            q, p["k"][:b, :, :seen], p["v"][:b, :, :seen], is_causal=causal, enable_gqa=self.heads != self.kv_heads
        )
        x = x + F.linear(a.transpose(1, 2).reshape(b, t, self.width), p["out"])
        gate, up = F.linear(rms(x, p["n2"]), p["up"]).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, p["down"])

    def __call__(self, x, at, seen, causal=False):
        for p in self.layers:
            x = self.layer(p, x, at, seen, causal)
        return rms(x, self.norm)


def janus(compiled):
    """A code of Janus-Pro-7B: guided pairs in the middle of a picture."""
    for candidates in (1, 20):
        rows = 2 * candidates
        model = Llama(30, 4096, 32, 32, 11008, 640, rows)
        head, last, table, aligner = randn(4096, 4096), randn(16384, 4096), randn(16384, 8), randn(4096, 8)
        second = randn(4096, 4096)
        x = randn(rows, 1, 4096)

        def step():
            h = model(x, 330, 331)[:, -1]
            logits = F.linear(F.gelu(F.linear(h, head)), last).float().view(candidates, 2, -1)
            logits = logits[:, 1] + 5.0 * (logits[:, 0] - logits[:, 1])
            probs = logits.softmax(-1)
            # What torch.multinomial draws, without its wait.
            code = (probs / torch.empty_like(probs).exponential_()).argmax(-1)
            return F.linear(F.gelu(F.linear(table[code], aligner)), second)

        tell(f"janus-pro-7b, a code of {candidates} guided pairs, eager", eager(step))
        tell(f"janus-pro-7b, a code of {candidates} guided pairs, graph", graph(step))
        if compiled:
            model.layer = torch.compile(model.layer)
            tell(f"janus-pro-7b, a code of {candidates} guided pairs, compiled, graph", graph(step))
        del model


class ShowO:
    """Layers of Phi with heads' norms: attention and MLP side by side."""

    def __init__(self):
        self.layers = [
            dict(
                n=[randn(2048), randn(2048)], qn=[randn(64), randn(64)], kn=[randn(64), randn(64)], qkv=randn(6144, 2048),
                out=randn(2048, 2048), up=randn(8192, 2048), down=randn(2048, 8192),
            )
            for _ in range(24)
        ]
        self.head = randn(8193, 2048)
        self.cos, self.sin = randn(400, 32), randn(400, 32)

    def layer(self, p, x, mask):
        b, t, _ = x.shape
        h = F.layer_norm(x, (2048,), *p["n"])
        q, k, v = (z.view(b, t, 32, 64).transpose(1, 2) for z in F.linear(h, p["qkv"]).chunk(3, -1))
        q, k = F.layer_norm(q, (64,), *p["qn"]), F.layer_norm(k, (64,), *p["kn"])
        turn = lambda z: torch.cat((rotate(z[..., :32], self.cos[:t], self.sin[:t]), z[..., 32:]), -1)
        a = F.scaled_dot_product_attention(turn(q), turn(k), v, attn_mask=mask)
        a = F.linear(a.transpose(1, 2).reshape(b, t, 2048), p["out"])
        return x + a + F.linear(F.gelu(F.linear(h, p["up"]), approximate="tanh"), p["down"])

    def __call__(self, x, mask):
        for p in self.layers:
            x = self.layer(p, x, mask)
        return F.linear(x[:, -257:-1], self.head)


def masked_step(model, x, mask):
    logits = model(x, mask).float()
    half = logits.shape[0] // 2
    logits = logits[half:] + 5.0 * (logits[:half] - logits[half:])
    probs = logits.softmax(-1)
    codes = (probs / torch.empty_like(probs).exponential_()).argmax(-1)
    chosen = probs.gather(-1, codes[..., None])[..., 0]
    order = chosen.log().sort(-1).values
    return torch.where(chosen.log() < order[:, 100:101], 58497, codes)


def show_o(compiled):
    model = ShowO()
    for candidates in (1, 20):
        x = randn(2 * candidates, 387, 2048)
        mask = torch.zeros(1, 1, 387, 387, device=GPU, dtype=BF16)
        step = lambda: masked_step(model, x, mask)
        tell(f"show-o, a step of {candidates} guided pairs, eager", eager(step))
        tell(f"show-o, a step of {candidates} guided pairs, graph", graph(step))
        if compiled:
            kept, model.layer = model.layer, torch.compile(model.layer)
            tell(f"show-o, a step of {candidates} guided pairs, compiled, graph", graph(step))
            model.layer = kept


class Tower:
    """SigLIP so400m, 384 pixels, 26 layers; and the projector."""

    def __init__(self, out):
        self.layers = [
            dict(
                n1=[randn(1152), randn(1152)], n2=[randn(1152), randn(1152)], qkv=randn(3456, 1152), out=randn(1152, 1152),
                up=randn(4304, 1152), down=randn(1152, 4304),
            )
            for _ in range(26)
        ]
        self.patch = randn(1152, 588)
        self.projector = [randn(out, 1152), randn(out, out)]

    def __call__(self, patches):
        x = F.linear(patches, self.patch)
        b, t, _ = x.shape
        for p in self.layers:
            q, k, v = (z.view(b, t, 16, 72).transpose(1, 2) for z in F.linear(F.layer_norm(x, (1152,), *p["n1"]), p["qkv"]).chunk(3, -1))
            a = F.scaled_dot_product_attention(q, k, v)
            x = x + F.linear(a.transpose(1, 2).reshape(b, t, 1152), p["out"])
            h = F.gelu(F.linear(F.layer_norm(x, (1152,), *p["n2"]), p["up"]), approximate="tanh")
            x = x + F.linear(h, p["down"])
        return F.linear(F.gelu(F.linear(x, self.projector[0])), self.projector[1])


class Judge:
    """LLaVA-OneVision 7B: 729 rows of a view and 131 of text; the answer is read from two rows of its vocabulary."""

    def __init__(self, batch):
        self.tower = Tower(3584)
        self.model = Llama(28, 3584, 28, 4, 18944, 900, batch)
        self.head = randn(152064, 3584)

    def __call__(self, views):
        patches = randn(views, 729, 588)
        rows = torch.cat((randn(views, 14, 3584), self.tower(patches), randn(views, 117, 3584)), 1)
        return F.linear(self.model(rows, 0, 860, causal=True)[:, -1], self.head)


def judge(compiled):
    model = Judge(4)
    for views in (1, 4):
        tell(f"llava-onevision-7b, a question about {views} views, eager", eager(lambda: model(views), 3))


def parm(compiled):
    """PARM over 20 candidates one by one, with the verdicts of `measure --script survive`."""
    generator, reward = ShowO(), Judge(1)
    x = randn(2, 387, 2048)
    mask = torch.zeros(1, 1, 387, 387, device=GPU, dtype=BF16)
    # The decoder of MAGVIT-v2 is not rebuilt here: a loop without it is the faster peer.
    def search():
        asked = steps = 0
        for candidate in range(20):
            looked = 1 if candidate % 2 == 0 else 2
            for step in range(18 if candidate % 4 < 2 else looked):
                masked_step(generator, x, mask)
                steps += 1
                # Clarity until it is clear, then potential, and the outcome at the end.
                for _ in range((step < looked) + (step == looked - 1) + (step == 17)):
                    reward(1).float().softmax(-1)[0, :2].tolist()
                    asked += 1
        return steps, asked

    search()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    steps, asked = search()
    torch.cuda.synchronize()
    tell("PARM of 20, Show-o and 7B judge, one by one, no decodes", (time.perf_counter() - begin) * 1e3, f"{steps} steps, {asked} questions")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="rates,products,janus,show_o,judge,parm")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    with torch.inference_mode():
        for name in options.only.split(","):
            if name in ("rates", "products"):
                {"rates": rates, "products": products}[name]()
            else:
                {"janus": janus, "show_o": show_o, "judge": judge, "parm": parm}[name](options.compile)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
