"""The number grid: weight = scale * (code - zero), codes 0 .. 2^bits - 1, one scale for a block of the input axis.

Symmetric: zero is 2^(bits-1) for every block, so the codes stand for -2^(bits-1) .. 2^(bits-1) - 1 steps, and a negative
scale turns the longer side to the positive weights. Asymmetric: zero is an integer 0 .. 2^bits - 1 of the block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The grid of every block of a matrix.

    Shapes: scales [N, G] float32, never 0; zeros [N, G] float32 holding integers.
    """

    bits: int
    scales: Tensor
    zeros: Tensor


def middle(bits: int) -> int:
    """Return the code of 0 on a symmetric grid."""
    return 1 << (bits - 1)


def in_blocks(weight: Tensor, block: int) -> Tensor:
    """Return the matrix [N, K] as blocks [N, G, block]; a short last block is filled with zeros."""
    rows, width = weight.shape
    groups = -(-width // block)
    padded = torch.nn.functional.pad(weight, (0, groups * block - width))
    return padded.reshape(rows, groups, block)


def round_to_codes(blocks: Tensor, grid: Grid) -> Tensor:
    """Return the nearest code of each weight: [N, G, block] float32 holding integers 0 .. 2^bits - 1."""
    steps = torch.round(blocks / grid.scales.unsqueeze(-1)).add_(grid.zeros.unsqueeze(-1))
    return steps.clamp_(0, 2**grid.bits - 1)


def values(codes: Tensor, grid: Grid) -> Tensor:
    """Return what the codes stand for: [N, G, block] float32.

    Numerics: code - zero is exact, the product is rounded once.
    """
    return (codes - grid.zeros.unsqueeze(-1)) * grid.scales.unsqueeze(-1)


def max_abs_grid(blocks: Tensor, bits: int) -> Grid:
    """Return the plain symmetric grid: the largest |weight| of a block stands at 2^(bits-1) - 1 steps.

    A block of zeros has scale 1. The error of a weight is at most scale / 2.
    """
    scales = nonzero(blocks.abs().amax(-1) / (middle(bits) - 1))
    return Grid(bits, scales, torch.full_like(scales, middle(bits)))


def min_max_grid(blocks: Tensor, bits: int) -> Grid:
    """Return the plain asymmetric grid: a block's range, widened to hold 0, fills the codes.

    A block of zeros has scale 1. The error of a weight is at most scale, as the zero is rounded too.
    """
    low, high = blocks.amin(-1).clamp_(max=0), blocks.amax(-1).clamp_(min=0)
    scales = nonzero((high - low) / (2**bits - 1))
    return Grid(bits, scales, torch.round(-low / scales).clamp_(0, 2**bits - 1))


def nonzero(scales: Tensor) -> Tensor:
    """Return the scales with 1 in place of 0 and of what is too small to divide by."""
    return torch.where(scales.abs() < torch.finfo(scales.dtype).tiny, torch.ones_like(scales), scales)


def squared_error(blocks: Tensor, codes: Tensor, grid: Grid) -> Tensor:
    """Return each block's squared error [N, G]."""
    return (values(codes, grid) - blocks).square_().sum(-1)
