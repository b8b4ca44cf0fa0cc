"""Slow float64 restatement of rounding with learned scales and zero points: weight by weight, as LSQ and LSQ+ write it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def rounded_and_gradients(
    latent: Floats, grid: tuple[Floats, Floats], slope: Floats, bits: int, block: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return (rounded weight, gradient of latent, of scales, of zeros) for the gradient `slope` of the rounded weight.

    Shapes: latent and slope [N, K]; grid: scales and zeros [N, G]. With v = w / s + z, LSQ+ (2004.09576 §3.1): d/dw is 1 inside
    and 0 outside; d/ds is round(v) - v inside and the end of the codes, less z, outside; d/dz is 0 inside and -s outside.
    Scales and zeros have LSQ's factor (1902.08153 §2.2): 1 / sqrt(weights in a block * steps on a side).
    """
    scales, zeros = grid
    top = 2**bits - 1
    factor = 1 / math.sqrt(block * (2 ** (bits - 1) - 1))
    rounded, for_latent = np.zeros_like(latent), np.zeros_like(latent)
    for_scales, for_zeros = np.zeros_like(scales), np.zeros_like(zeros)
    for row, column in np.ndindex(*latent.shape):
        group = column // block
        scale, zero = scales[row, group], min(max(round(zeros[row, group]), 0), top)
        v = latent[row, column] / scale + zero
        code = round(v)
        change = slope[row, column]
        if 0 <= code <= top:
            for_latent[row, column] = change
            for_scales[row, group] += change * (code - v) * factor
        else:
            code = 0 if code < 0 else top
            for_scales[row, group] += change * (code - zero) * factor
            for_zeros[row, group] -= change * scale * factor
        rounded[row, column] = scale * (code - zero)
    return rounded, for_latent, for_scales, for_zeros
