"""AWQ: scale the input channels that activations make important, so that rounding hurts them less. Knows tensors only.

W x = (W diag(s)) (x / s): weights of a channel with s > 1 are rounded on a finer grid, and 1 / s is moved into what makes the
input (`compress.models.folding`), so the model itself does not change. What is searched is s; what is minimised is the error
that rounding leaves in the outputs of every projection that reads the input:

    sum over tokens of |(W - Q(W s) / s) x|^2  =  trace(D H D^T),   D = W - Q(W s) / s,   H = sum over tokens of x x^T

so second moments of the inputs are all that is kept of calibration text.

Paper: arXiv 2306.00978, section 3.2: s = mean|x|^alpha, alpha from a grid on [0, 1]. Departures: the public
implementation's mean|x|^alpha / mean|w|^(1 - alpha) is searched beside it, and the better one taken; both are the paper's
with their geometric mean set to 1. `rounded` is what will be stored, searched scales included, so the paper's clipping needs no
pass of its own. Where a weight has more rows than `rows`, evenly spaced ones stand for all: they are rounded independently.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from compress.quantize.scale_search import Change, least_of, spread_rows

_POINTS = 20
_SMALLEST = 1e-4


def search_scales(
    weights: Sequence[Tensor],
    moments: Tensor,
    mean_abs: Tensor,
    rounded: Change,
    shared: Change | None = None,
    rows: int = 512,
) -> Tensor:
    """Return the scales of the input channels whose rounded weights leave the least error in the outputs.

    Shapes: weights each [N, K]; moments [K, K] and mean_abs [K] of their common input; returns [K] float32, geometric mean 1.
    rounded     what storing makes of a matrix [n, K]: its values on the grid
    shared      makes candidates [K] equal where channels must share a scale (`compress.models.folding.tie`)
    rows        how many rows of the tallest weight are looked at; of the others as large a part
    Range: 1 for every channel is a candidate, so the error on these moments is never above that of no scaling.
    Raises ValueError for statistics that are not finite.
    """
    if not bool(moments.isfinite().all() and mean_abs.isfinite().all()):
        raise ValueError("the statistics of the inputs hold values that are not finite")
    sampled = spread_rows(weights, rows)
    mean_weight = torch.cat([weight.detach().float().abs() for weight in weights]).mean(0)
    candidates = _candidates(mean_abs.float(), mean_weight)
    return least_of(candidates, lambda scales: output_error(sampled, moments, rounded, scales), shared)


def output_error(weights: Sequence[Tensor], moments: Tensor, rounded: Change, scales: Tensor) -> float:
    """Return the squared error that rounding W s leaves in the outputs, summed over tokens and outputs.

    Shapes: weights each [N, K], moments [K, K], scales [K].
    """
    error = 0.0
    for weight in weights:
        difference = weight - rounded(weight * scales) / scales
        error += float(((difference @ moments.to(difference)) * difference).sum(dtype=torch.float64))
    return error


def _candidates(mean_abs: Tensor, mean_weight: Tensor) -> Iterator[Tensor]:
    # A channel that is always 0 can have any scale; one that is far below the others would only lose digits.
    activity = mean_abs.clamp(min=_SMALLEST * float(mean_abs.max().clamp(min=torch.finfo(torch.float32).tiny)))
    size = mean_weight.clamp(min=_SMALLEST * float(mean_weight.max().clamp(min=torch.finfo(torch.float32).tiny)))
    for step in range(1, _POINTS + 1):
        alpha = step / _POINTS
        yield _centred(activity**alpha)
        if step < _POINTS:
            yield _centred(activity**alpha / size ** (1 - alpha))


def _centred(scales: Tensor) -> Tensor:
    return scales / scales.log().mean().exp()
