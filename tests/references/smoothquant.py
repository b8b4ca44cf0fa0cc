"""SmoothQuant (arXiv 2211.10438, section 4) and ONNX's DynamicQuantizeLinear, restated slowly in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def smoothing_scales(tokens: Floats, weights: Sequence[Floats], alpha: float) -> list[float]:
    """Return s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), geometric mean 1."""
    found = []
    for channel in range(tokens.shape[1]):
        largest_input = max(abs(token[channel]) for token in tokens)
        largest_weight = max(abs(row[channel]) for weight in weights for row in weight)
        found.append(largest_input**alpha / largest_weight ** (1 - alpha))
    mean = math.exp(sum(math.log(scale) for scale in found) / len(found))
    return [scale / mean for scale in found]


def dynamic(call: Floats) -> Floats:
    """Return what DynamicQuantizeLinear's codes of a call [T, K] stand for: uint8 over its range, which holds 0."""
    low, high = min(0.0, call.min()), max(0.0, call.max())
    if low == high:
        return np.zeros_like(call)
    scale = (high - low) / 255
    zero = round(min(max(-low / scale, 0), 255))
    found = np.empty_like(call)
    for place, value in np.ndenumerate(call):
        code = min(max(round(value / scale) + zero, 0), 255)
        found[place] = scale * (code - zero)
    return found


def per_channel(weight: Floats) -> Floats:
    """Return a matrix on the plain symmetric 8-bit grid with a scale for each row."""
    found = np.zeros_like(weight)
    for row, values in enumerate(weight):
        scale = max(abs(value) for value in values) / 127
        for column, value in enumerate(values):
            found[row, column] = scale * round(value / scale) if scale else 0.0
    return found


def output_error(weights: Sequence[Floats], calls: Floats, scales: Sequence[float]) -> float:
    """Return the squared error of MatMulInteger's outputs over calls [C, T, K], inputs and weights rounded."""
    total = 0.0
    for call in calls:
        given = dynamic(call / np.array(scales))
        for weight in weights:
            total += float(((given @ per_channel(weight * np.array(scales)).T - call @ weight.T) ** 2).sum())
    return total


def search(
    weights: Sequence[Floats], calls: Floats, points: int = 20, limits: int = 24, step: float = 0.87
) -> list[float]:
    """Return the best of: no smoothing, the formula on a grid of alpha, and scales above 1 only for what sticks out of a limit."""
    tokens = calls.reshape(-1, calls.shape[-1])
    largest = np.abs(tokens).max(0)
    candidates = [[1.0] * len(largest)]
    candidates += [smoothing_scales(tokens, weights, point / points) for point in range(points + 1)]
    for power in range(1, limits + 1):
        limit = largest.max() * step**power
        candidates.append([max(1.0, each / limit) for each in largest])
    return min(candidates, key=lambda scales: output_error(weights, calls, scales))
