"""Round to nearest, with the scale (and zero point) of each block that a search finds best.

For each block the search tries clipping ratios, both signs of the scale on a symmetric grid (the longer side of -8..7 then
holds the extreme weight), and the neighbours of the zero point on an asymmetric one. Given the codes, the best scale has a
closed form: with steps q = code - zero, scale = <w, q> / <q, q>, and the error is <w, w> - <w, q>^2 / <q, q>. So candidates are
compared by their refitted error, and the best one is refined by rounding and refitting in turn.

With an importance for each input channel, such as the mean square of what it carries, squares are weighted by it.

Numerics: float32. The result is compared with the plain grid (largest |weight|, or range) block by block, and the plain
one stays where it is not beaten: never worse than plain rounding.
Memory: about a dozen times `_CHUNK` floats, whatever the size of the matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.models.grid import (
    Grid,
    in_blocks,
    max_abs_grid,
    middle,
    min_max_grid,
    nonzero,
    round_to_codes,
    squared_error,
    values,
)

_CHUNK = 1 << 19
_REFITS = 3
_WIDE = 8
# The part of the plain range that a candidate keeps. More bits lose more by clipping and less by wide steps.
_RATIOS = {2: (0.4, 1.05, 40), 4: (0.5, 1.05, 28), 8: (0.9, 1.01, 23)}
# Of the mean importance, added to each, so that a channel that the calibration text leaves silent is still rounded to something near.
_LEAST_IMPORTANCE = 1e-2


@dataclass(frozen=True)
class Rounded:
    """A rounded matrix: codes [N, G, block] uint8, scales [N, G] float32, zeros [N, G] uint8."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor


def round_to_nearest(
    weight: Tensor, bits: int, block: int, symmetric: bool, importance: Tensor | None = None
) -> Rounded:
    """Return codes, scales and zeros of a matrix [N, K] whose squared error the search found least, block by block.

    importance   of each input channel: [K], not negative; None: all alike

    Raises ValueError where a weight is not finite.
    """
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("holds values that are not finite")
    rows = max(1, _CHUNK // max(1, weight.shape[1]))
    weights = None if importance is None else _weights(importance, block)
    parts = [_round_rows(part, bits, block, symmetric, weights) for part in torch.split(weight.detach().float(), rows)]
    return Rounded(
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat([part.zeros for part in parts]),
    )


def _weights(importance: Tensor, block: int) -> Tensor | None:
    """Return the importance in blocks [1, G, block], 1 in the middle; None where it is 0 throughout."""
    mean = importance.double().mean()
    if not bool(mean > 0):
        return None
    return in_blocks((importance.double() / mean + _LEAST_IMPORTANCE).float()[None], block)


def _round_rows(weight: Tensor, bits: int, block: int, symmetric: bool, weights: Tensor | None) -> Rounded:
    blocks = in_blocks(weight, block)
    plain = max_abs_grid(blocks, bits) if symmetric else min_max_grid(blocks, bits)
    candidates = _symmetric_grids(blocks, bits) if symmetric else _asymmetric_grids(blocks, plain)
    found = _best(blocks, plain, candidates, weights)
    grid, codes = _refine(blocks, plain, found, weights)
    return Rounded(codes.to(torch.uint8), grid.scales, grid.zeros.to(torch.uint8))


def _ratios(bits: int) -> list[float]:
    low, high, count = _RATIOS[bits]
    return [low + (high - low) * index / (count - 1) for index in range(count)]


def _symmetric_grids(blocks: Tensor, bits: int) -> Iterator[Grid]:
    zeros = torch.full_like(blocks[..., 0], middle(bits))
    extreme = blocks.abs().amax(-1)
    # Of 8 bits one step more gains next to nothing, and compilers of NPUs want scales above 0.
    for sign in (1.0,) if bits == _WIDE else (1.0, -1.0):
        for ratio in _ratios(bits):
            # The longer side has 2^(bits-1) steps; one step less is the plain grid.
            yield Grid(bits, nonzero(extreme * (sign * ratio / (middle(bits) - 0.5))), zeros)


def _asymmetric_grids(blocks: Tensor, plain: Grid) -> Iterator[Grid]:
    top = 2**plain.bits - 1
    low = blocks.amin(-1).clamp_(max=0)
    for ratio in _ratios(plain.bits):
        scales = nonzero(plain.scales * ratio)
        centre = torch.round(-low * ratio / scales)
        for shift in (-1, 0, 1):
            yield Grid(plain.bits, scales, (centre + shift).clamp(0, top))


def _refit(blocks: Tensor, codes: Tensor, grid: Grid, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the least-squares scales for the codes, and the part of <w, w> that they explain (more is better)."""
    steps = codes - grid.zeros.unsqueeze(-1)
    weighted = steps if weights is None else steps * weights
    product = torch.linalg.vecdot(blocks, weighted)
    norm = torch.linalg.vecdot(steps, weighted)
    least = 1.0 if weights is None else torch.finfo(norm.dtype).tiny
    scales = torch.where(norm > 0, product / norm.clamp(min=least), grid.scales)
    return nonzero(scales), product * scales


def _best(blocks: Tensor, plain: Grid, candidates: Iterator[Grid], weights: Tensor | None) -> Grid:
    """Return, for each block, the refitted candidate that explains most."""
    scales, zeros = plain.scales, plain.zeros
    most = torch.full_like(scales, -1.0)
    for grid in candidates:
        refitted, explained = _refit(blocks, round_to_codes(blocks, grid), grid, weights)
        better = explained > most
        most = torch.where(better, explained, most)
        scales = torch.where(better, refitted, scales)
        zeros = torch.where(better, grid.zeros, zeros)
    return Grid(plain.bits, scales, zeros)


def _refine(blocks: Tensor, plain: Grid, found: Grid, weights: Tensor | None) -> tuple[Grid, Tensor]:
    """Round and refit in turn; keep, for each block, the best grid seen, the plain one included."""
    best, codes = plain, round_to_codes(blocks, plain)
    least = _error(blocks, codes, best, weights)
    grid = found
    for _ in range(_REFITS):
        rounded = round_to_codes(blocks, grid)
        error = _error(blocks, rounded, grid, weights)
        better = error < least
        least = torch.where(better, error, least)
        codes = torch.where(better.unsqueeze(-1), rounded, codes)
        best = Grid(
            best.bits, torch.where(better, grid.scales, best.scales), torch.where(better, grid.zeros, best.zeros)
        )
        grid = Grid(grid.bits, _refit(blocks, rounded, grid, weights)[0], grid.zeros)
    return best, codes


def _error(blocks: Tensor, codes: Tensor, grid: Grid, weights: Tensor | None) -> Tensor:
    if weights is None:
        return squared_error(blocks, codes, grid)
    return (values(codes, grid) - blocks).square_().mul_(weights).sum(-1)
