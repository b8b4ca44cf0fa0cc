"""Training through the number grid: the value is the rounded weight, the gradient is that of the weight behind it.

A quantized weight is learned as latent weights, of which the codes are the rounding, and as changes of scales and zero points.
Forward gives exactly what `models.quantized.dequantize` will give for the stored codes. Backward, with x = latent / scale and
g the gradient of a rounded weight, over the weights of a block:

    latent       g                        where the code is not clamped, else 0
    scale        sum of g * (q - x)       where it is not clamped; g * q where it is; q = code - zero
    zero point   sum of -g * scale        where it is clamped, else 0

Papers: STE, arXiv 1308.3432 §4; LSQ, arXiv 1902.08153 §2 (scales, and their gradient divided by the square root of weights
in a block times steps on a side); LSQ+, arXiv 2004.09576 §3 (zero points). Departures: a latent weight counts as clamped when
its code is, half a step beyond the last code, where LSQ stops at that code: a weight that starts on it, as after a dequantized
start, could never leave. Scales are learned as factors, so that none changes its sign or becomes 0. Zero points are rounded
to the integers that are stored.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compress.models.grid import Grid, in_blocks, middle, round_to_codes, values


def round_to_grid(latent: Tensor, scales: Tensor, zeros: Tensor, bits: int, block: int) -> Tensor:
    """Return the rounded weight [N, K], with the gradients that the top of the file gives.

    Shapes: latent [N, K], scales and zeros [N, G]; zeros are rounded to integers here.
    """
    rounded: Tensor = _RoundToGrid.apply(latent, scales, zeros, bits, block)  # type: ignore[no-untyped-call]
    return rounded


def values_of_codes(codes: Tensor, scales: Tensor, zeros: Tensor, bits: int, width: int) -> Tensor:
    """Return the weight [N, K] of codes that stay, with a gradient for the scales alone: a zero point that goes one step on
    would take a whole block along.

    Shapes: codes [N, G, block], scales and zeros [N, G]; width is K.
    """
    grid = integer_grid(scales, zeros.detach(), bits)
    return values(codes.to(scales.dtype), grid).flatten(1)[:, :width].contiguous()


class _RoundToGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, scales: Tensor, zeros: Tensor, bits: int, block: int) -> Tensor:
        ctx.save_for_backward(latent, scales, zeros)
        ctx.bits, ctx.block = bits, block
        grid = integer_grid(scales, zeros, bits)
        rounded = values(round_to_codes(in_blocks(latent, block), grid), grid)
        return rounded.flatten(1)[:, : latent.shape[1]].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        latent, scales, zeros = ctx.saved_tensors
        grid = integer_grid(scales, zeros, ctx.bits)
        zero, scale = grid.zeros.unsqueeze(-1), grid.scales.unsqueeze(-1)
        slopes = in_blocks(slope, ctx.block)
        x = in_blocks(latent, ctx.block) / scale
        # clamped in steps, not in codes: the sums below need q
        rounded = torch.round(x)
        q = torch.minimum(torch.maximum(rounded, -zero), 2**ctx.bits - 1 - zero)
        clamped = rounded != q
        for_latent = for_scales = for_zeros = None
        if ctx.needs_input_grad[0]:
            for_latent = slopes.masked_fill(clamped, 0).flatten(1)[:, : latent.shape[1]].contiguous()
        factor = 1 / math.sqrt(ctx.block * (middle(ctx.bits) - 1))
        if ctx.needs_input_grad[1]:
            for_scales = torch.linalg.vecdot(slopes, q - x.masked_fill(clamped, 0)) * factor
        if ctx.needs_input_grad[2]:
            for_zeros = slopes.masked_fill(~clamped, 0).sum(-1) * -scales * factor
        return for_latent, for_scales, for_zeros, None, None


def integer_grid(scales: Tensor, zeros: Tensor, bits: int) -> Grid:
    """Return the grid that is stored: zero points are integers 0 .. 2^bits - 1."""
    return Grid(bits, scales, torch.round(zeros).clamp_(0, 2**bits - 1))


def inside_cells(weight: Tensor, codes: Tensor, grid: Grid) -> Tensor:
    """Return the matrix [N, K] with every weight moved, no further than it must, to where it rounds to its code [N, G, block]."""
    blocks, scale = in_blocks(weight, codes.shape[-1]), grid.scales.unsqueeze(-1)
    q = codes - grid.zeros.unsqueeze(-1)
    # beyond the last code every weight rounds to it
    low = torch.where(codes > 0, q - _CELL, -torch.inf)
    high = torch.where(codes < 2**grid.bits - 1, q + _CELL, torch.inf)
    moved = torch.minimum(torch.maximum(blocks / scale, low), high) * scale
    return moved.flatten(1)[:, : weight.shape[1]].contiguous()


# Of half a step on each side of a code: so far from the border that the float32 product rounds back.
_CELL = 0.499
