"""Slow float64 restatements of the number grid: plain loops over blocks and weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def plain_symmetric(block: Sequence[float], bits: int) -> list[float]:
    """Round a block with scale = largest |weight| / (2^(bits-1) - 1)."""
    middle = 2 ** (bits - 1)
    scale = max(abs(weight) for weight in block) / (middle - 1)
    if scale == 0:
        return [0.0 for _ in block]
    return [scale * (min(max(round(weight / scale) + middle, 0), 2 * middle - 1) - middle) for weight in block]


def error_at(block: Floats, scale: float, zero: int, bits: int) -> float:
    """Return the squared error of a block on the grid of this scale and zero."""
    codes = np.clip(np.round(block / scale) + zero, 0, 2**bits - 1)
    return float(((scale * (codes - zero) - block) ** 2).sum())


def least_error(block: Floats, bits: int, symmetric: bool, points: int = 2000) -> float:
    """Return the least squared error of a block over a dense scan of scales, of both signs, and every zero."""
    middle = 2 ** (bits - 1)
    span = float(np.abs(block).max()) if symmetric else float(max(block.max(), 0) - min(block.min(), 0))
    top = span / (middle if symmetric else 2**bits - 1)
    zeros = [middle] if symmetric else range(2**bits)
    scales = [
        sign * top * ratio for sign in ((1, -1) if symmetric else (1,)) for ratio in np.linspace(0.4, 1.3, points)
    ]
    return min(error_at(block, scale, zero, bits) for scale in scales for zero in zeros)


def unpacked(stored: Sequence[int], bits: int, count: int) -> list[int]:
    """Read `count` codes out of bytes, low nibble first."""
    per_byte = 8 // bits
    return [(stored[index // per_byte] >> (bits * (index % per_byte))) & (2**bits - 1) for index in range(count)]
