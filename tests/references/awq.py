"""AWQ (arXiv 2306.00978, section 3.2) in float64, from activations: plain loops over channels, tokens and outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def output_error(
    weights: Sequence[Floats], tokens: Floats, rounded: Callable[[Floats], Floats], scales: Sequence[float]
) -> float:
    """Return the sum over tokens x and weights W of |W x - Q(W diag(s)) diag(1/s) x|^2."""
    total = 0.0
    for weight in weights:
        scaled = weight.copy()
        for channel, scale in enumerate(scales):
            scaled[:, channel] *= scale
        stored = rounded(scaled)
        for token in tokens:
            divided = [value / scale for value, scale in zip(token, scales, strict=True)]
            for row in range(len(weight)):
                said = sum(stored[row, channel] * divided[channel] for channel in range(len(scales)))
                wanted = sum(weight[row, channel] * token[channel] for channel in range(len(scales)))
                total += (wanted - said) ** 2
    return total


def scales_of(tokens: Floats, weights: Sequence[Floats], alpha: float, by_weight: bool) -> list[float]:
    """Return mean|x|^alpha, divided by mean|w|^(1 - alpha) where `by_weight` says so; geometric mean 1."""
    rows = np.concatenate(list(weights))
    found = []
    for channel in range(tokens.shape[1]):
        activity = sum(abs(value) for value in tokens[:, channel]) / len(tokens)
        size = sum(abs(value) for value in rows[:, channel]) / len(rows)
        found.append(activity**alpha / (size ** (1 - alpha) if by_weight else 1.0))
    mean = math.exp(sum(math.log(scale) for scale in found) / len(found))
    return [scale / mean for scale in found]


def search(
    weights: Sequence[Floats], tokens: Floats, rounded: Callable[[Floats], Floats], points: int = 20
) -> list[float]:
    """Return the candidate with the least error: no scaling, and both formulas on a grid of alpha."""
    candidates = [[1.0] * tokens.shape[1]]
    for step in range(1, points + 1):
        candidates.append(scales_of(tokens, weights, step / points, by_weight=False))
        candidates.append(scales_of(tokens, weights, step / points, by_weight=True))
    return min(candidates, key=lambda scales: output_error(weights, tokens, rounded, scales))
