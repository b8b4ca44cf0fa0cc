"""The grid of an input in 8 bits: value = scale * (code - zero), codes 0 .. 255. Imports no torch.

`quantize` and the parity gate round inputs by it in torch (rounded_inputs.py), `export` writes it into the graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CODES = 256
# A row's largest |value| stands this many steps from the zero.
ROW_STEPS = 127
ROW_ZERO = 128


@dataclass(frozen=True)
class InputGrid:
    """Scale and zero of an input whose range is known."""

    scale: np.float32
    zero: np.uint8


def static_grid(low: float, high: float) -> InputGrid:
    """Return the grid that holds [low, high], widened to hold 0, which has a code of its own.

    A range that is 0 alone has scale 1.
    Raises ValueError where the range is no range: a bound is not finite, or low is above high.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"[{low:g}, {high:g}] is no range of inputs")
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / (CODES - 1))
    if scale < np.finfo(np.float32).tiny:
        return InputGrid(np.float32(1), np.uint8(0))
    return InputGrid(scale, np.uint8(min(round(-low / float(scale)), CODES - 1)))
