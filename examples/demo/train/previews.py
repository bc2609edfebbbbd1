"""How the engine shows a raster picture whose first rows are drawn, in each of its ways."""

import torch

import vq
from common import to_u8

KINDS = ["repeat-row", "mean", "zeros", "grey"]
GREY, STEP = 127, vq.SIDE // vq.GRID


@torch.no_grad()
def preview(pixels, kind, codes, rows):
    """Pictures (u8 NHWC) of codes [N, 64] of which `rows` [N] rows are drawn."""
    n, grid = len(codes), vq.GRID
    row = torch.arange(grid).expand(n, grid)
    drawn = (row < rows[:, None]).repeat_interleave(grid, 1)
    if kind in ("repeat-row", "grey"):
        last = torch.minimum(row, rows[:, None] - 1)
        codes = codes.view(n, grid, grid).gather(1, last[..., None].expand(-1, -1, grid)).view(n, -1)
        out = to_u8(pixels.decode(codes))
        if kind == "grey":
            out[(torch.arange(vq.SIDE) // STEP) >= rows[:, None]] = GREY
        return out
    entries = pixels.entries()
    blank = entries.mean(0) if kind == "mean" else torch.zeros(vq.EMBED)
    return to_u8(pixels.draw(torch.where(drawn[..., None], entries[codes], blank)))
