"""GPTQ: each weight is rounded so that what it adds to the output is made good by the weights that are still to be rounded.

What is minimised is the error of the outputs, trace((W - W') H (W - W')^T) with H the second moments of the inputs. Three steps:

1. scales and zero points of every block by the search of rtn.py, squares weighted by the diagonal of H;
2. codes channel by channel, inputs that carry most first, the error of each spread over the channels that follow;
3. `refine` times: with codes as they are, the scales of a row by least squares under the whole of H; then codes again, one channel
   at a time with all others as they are, for as long as codes change (coordinate descent).

Knows tensors only. Numerics: H is factored in float64, codes are found in float32.

Papers: step 2 is GPTQ, Frantar et al., arXiv 2210.17323, section 3.3 and algorithm 1; departures: scales are known beforehand
(so that the order is free of the blocks), dead inputs need no case of their own as damping is added to each. Step 3's codes are
QuantEase's, Behdin et al., arXiv 2309.01885, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compress.models.grid import Grid, in_blocks, nonzero
from compress.quantize.rtn import Rounded, round_to_nearest

# Channels whose errors are added to the rest of the matrix at once.
_LAZY = 128
_SWEEPS = 2
# Floats held at once while scales are fitted.
_CHUNK = 1 << 23
_RIDGE = 1e-4


@dataclass(frozen=True)
class Settings:
    """How GPTQ goes: damping is a part of the mean diagonal of H; refine counts rounds of step 3."""

    damping: float = 0.01
    activation_order: bool = True
    refine: int = 2


@dataclass(frozen=True)
class Columns:
    """The grid of every weight of a matrix, padding left out. Shapes: scales, zeros [N, K]."""

    scales: Tensor
    zeros: Tensor
    top: int

    def codes(self, target: Tensor, at: int) -> Tensor:
        """Return the nearest codes [N] of targets [N] in one channel."""
        return torch.round(target / self.scales[:, at]).add_(self.zeros[:, at]).clamp_(0, self.top)

    def value(self, codes: Tensor, at: int) -> Tensor:
        """Return what the codes [N] of one channel stand for."""
        return (codes - self.zeros[:, at]) * self.scales[:, at]

    def values(self, codes: Tensor) -> Tensor:
        """Return what codes [N, K] stand for."""
        return (codes - self.zeros) * self.scales


def gptq(weight: Tensor, moments: Tensor, grid: tuple[int, int, bool], settings: Settings | None = None) -> Rounded:
    """Return codes, scales and zeros of a matrix that read inputs with these second moments.

    grid   bits, block, and whether it is symmetric

    Shapes: weight [N, K], moments [K, K] -> codes [N, G, block], scales and zeros [N, G].
    Memory: some ten times the matrix, and four times the moments in float64.
    Raises ValueError where a weight or a moment is not finite.
    """
    settings = settings or Settings()
    if not bool(torch.isfinite(moments).all()):
        raise ValueError("gets inputs that are not finite")
    damped = _damped(moments, settings.damping)
    order = torch.argsort(damped.diagonal(), descending=True, stable=True)
    if not settings.activation_order:
        order = torch.arange(len(order), device=order.device)
    work = _Work(grid, settings, moments, order, error_factor(damped, order))
    rows = max(1, _CHUNK // weight.shape[1])
    parts = [_round(part, work) for part in torch.split(weight.detach().float(), rows)]
    return Rounded(
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat([part.zeros for part in parts]),
    )


@dataclass(frozen=True)
class _Work:
    """What all rows of a matrix share."""

    grid: tuple[int, int, bool]
    settings: Settings
    moments: Tensor
    order: Tensor
    factor: Tensor


def _round(weight: Tensor, work: _Work) -> Rounded:
    bits, block, symmetric = work.grid
    width, order = weight.shape[1], work.order
    start = round_to_nearest(weight, bits, block, symmetric, work.moments.diagonal())
    found = Grid(bits, start.scales, start.zeros.float())
    codes = compensated_codes(weight, work.factor, columns(found, block, width), order)
    refined = _damped(work.moments, _RIDGE)
    for _ in range(work.settings.refine):
        found = fitted_scales(weight, refined, codes, found, block)
        codes = descended_codes(weight, refined, codes, columns(found, block, width), order)
    blocks = in_blocks(codes, block)
    if missing := blocks.shape[1] * block - width:
        blocks[:, -1, block - missing :] = found.zeros[:, -1:]
    return Rounded(blocks.to(torch.uint8), found.scales, found.zeros.to(torch.uint8))


def error_factor(damped: Tensor, order: Tensor) -> Tensor:
    """Return the upper Cholesky factor of H^-1: its rows say how the error of a channel goes to those after it in this order.

    Shapes: damped [K, K] float64, order [K] -> [K, K] float32.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped[order][:, order]))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True).float()
    return factor


def compensated_codes(weight: Tensor, factor: Tensor, grid: Columns, order: Tensor) -> Tensor:
    """Return the codes [N, K] of step 2. Shapes: weight [N, K], factor [K, K] of `error_factor`, order [K]."""
    left, codes = weight[:, order].clone(), torch.empty_like(weight)
    width = weight.shape[1]
    for first in range(0, width, _LAZY):
        last = min(first + _LAZY, width)
        errors = torch.empty_like(left[:, first:last])
        for at in range(first, last):
            channel = int(order[at])
            codes[:, channel] = grid.codes(left[:, at], channel)
            error = (left[:, at] - grid.value(codes[:, channel], channel)) / factor[at, at]
            left[:, at + 1 : last].addr_(error, factor[at, at + 1 : last], alpha=-1)
            errors[:, at - first] = error
        left[:, last:].addmm_(errors, factor[first:last, last:], alpha=-1)
    return codes


def descended_codes(weight: Tensor, damped: Tensor, codes: Tensor, grid: Columns, order: Tensor) -> Tensor:
    """Return codes [N, K] that no change of a single one would better, or those of the last of two sweeps. Shapes as above."""
    moments = damped.float()[order][:, order]
    diagonal = moments.diagonal()
    codes = codes.clone()
    rounded = grid.values(codes)
    for _ in range(_SWEEPS):
        # What the output misses, by channel: moments of inputs with the missing output.
        missing = ((weight - rounded)[:, order]) @ moments
        before = codes.clone()
        for first in range(0, len(order), _LAZY):
            last = min(first + _LAZY, len(order))
            changes = torch.empty_like(missing[:, first:last])
            for at in range(first, last):
                channel = int(order[at])
                target = rounded[:, channel] + missing[:, at] / diagonal[at]
                codes[:, channel] = grid.codes(target, channel)
                change = grid.value(codes[:, channel], channel) - rounded[:, channel]
                missing[:, at:last].addr_(change, moments[at, at:last], alpha=-1)
                rounded[:, channel] += change
                changes[:, at - first] = change
            missing[:, last:].addmm_(changes, moments[first:last, last:], alpha=-1)
        if torch.equal(codes, before):
            break
        rounded = grid.values(codes)
    return codes


def fitted_scales(weight: Tensor, damped: Tensor, codes: Tensor, grid: Grid, block: int) -> Grid:
    """Return the grid with the scales of every row that are best for these codes, all blocks of the row together.

    Shapes: weight and codes [N, K], damped [K, K] float64. Memory: about `_CHUNK` floats.
    """
    rows, width = weight.shape
    groups = grid.scales.shape[1]
    steps = in_blocks(codes - columns(grid, block, width).zeros, block)
    moments = torch.nn.functional.pad(damped.float(), (0, groups * block - width) * 2)
    wanted = torch.nn.functional.pad(weight @ damped.float(), (0, groups * block - width))
    scales = torch.empty_like(grid.scales)
    for part in torch.split(torch.arange(rows, device=weight.device), max(1, _CHUNK // (groups * groups * block))):
        some = steps[part]
        # [G, n, block] @ [G, block, K] -> what each block's steps give with every channel
        seen = torch.bmm(some.transpose(0, 1), moments.reshape(groups, block, -1)).reshape(
            groups, len(part), groups, block
        )
        normal = torch.einsum("gnhb,nhb->ngh", seen, some).double()
        right = torch.einsum("ngb,ngb->ng", wanted[part].reshape(len(part), groups, block), some).double()
        diagonal = normal.diagonal(dim1=1, dim2=2)
        dead = diagonal <= 0
        normal = normal + torch.diag_embed(torch.where(dead, 1.0, 1e-7 * diagonal))
        right = torch.where(dead, grid.scales[part].double(), right)
        scales[part] = torch.linalg.solve(normal, right.unsqueeze(-1)).squeeze(-1).float()
    return replace(grid, scales=nonzero(scales))


def output_error(weight: Tensor, rounded: Tensor, moments: Tensor) -> float:
    """Return trace((W - W') H (W - W')^T). Shapes: [N, K], [N, K], [K, K]."""
    difference = (weight - rounded).double()
    return float(((difference @ moments.double()) * difference).sum())


def _damped(moments: Tensor, damping: float) -> Tensor:
    """Return the moments in float64 with a part of their mean diagonal added to it."""
    moments = moments.double()
    # The least is for inputs that are all zero.
    added = damping * moments.diagonal().mean().clamp(min=1e-20)
    return moments + added * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)


def columns(grid: Grid, block: int, width: int) -> Columns:
    """Return the grid of every weight of a matrix with this many inputs."""
    scales, zeros = (each.repeat_interleave(block, 1)[:, :width] for each in (grid.scales, grid.zeros))
    return Columns(scales, zeros, 2**grid.bits - 1)
