"""SmoothQuant: move the range of inputs into weights, so that 8 bits for the inputs of a projection lose less.

W x = (W diag(s)) (x / s): a channel whose inputs stick out is divided by a large s, the weights that read it are multiplied,
and 1 / s is moved into what makes the input (`compress.models.folding`), so the model itself does not change. What is searched
is s; what is minimised is the squared error of the real thing, inputs and weights both rounded, in the outputs of every
projection that reads the input, on a sample of inputs.

Paper: arXiv 2211.10438, section 4: s = max|x|^alpha / max|w|^(1 - alpha), alpha chosen for the model by a grid. Departures: alpha is
chosen for each input by its error; beside the formula, scales are tried that touch only what sticks out, s = max(1, max|x| / limit)
for falling limits, and the better is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.models.input_grid import CODES
from compress.quantize.scale_search import Change, least_of, spread_rows

_ALPHAS = 20
_LIMITS = 24
# Each limit is this part of the one before: the last one is 3 % of the largest input.
_STEP = 0.87
_SMALLEST = 1e-5


@dataclass(frozen=True)
class Rounding:
    """What storing and running make of numbers: weight [N, K] -> its values; inputs [C, T, K], C calls -> their values.

    For inputs: `by_call`, or what compress.models.rounded_inputs has for ranges by row and for fixed ones.
    """

    weight: Change
    inputs: Change


def by_call(inputs: Tensor) -> Tensor:
    """Return inputs as ONNX's DynamicQuantizeLinear and MatMulInteger see them: 8 bits over the range of a call, 0 included.

    Shapes: [C, T, K], one range for each of the C calls. One call that holds a whole sample shows a range fixed on it (static).
    Numerics: bit for bit ONNX Runtime's codes, scale and zero point, times each other in float32.
    """
    low = inputs.amin((1, 2), keepdim=True).clamp(max=0)
    high = inputs.amax((1, 2), keepdim=True).clamp(min=0)
    scale = (high - low) / (CODES - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = torch.round((-low / scale).clamp(0, CODES - 1))
    codes = (torch.round(inputs / scale) + zero).clamp(0, CODES - 1)
    return (codes - zero) * scale


def smoothing_scales(largest_input: Tensor, largest_weight: Tensor, alpha: float) -> Tensor:
    """Return the paper's scales, geometric mean 1: s = max|x|^alpha / max|w|^(1 - alpha). Shapes: all [K]."""
    scales = _above_zero(largest_input) ** alpha / _above_zero(largest_weight) ** (1 - alpha)
    return scales / scales.log().mean().exp()


def search_scales(
    weights: Sequence[Tensor], inputs: Tensor, rounding: Rounding, shared: Change | None = None, rows: int = 512
) -> Tensor:
    """Return the scales of the input channels that leave the least error in the outputs.

    Shapes: weights each [N, K]; inputs [C, T, K], a sample of what they read in C calls; returns [K] float32.
    shared      makes candidates [K] equal where channels must share a scale (`compress.models.folding.tie`)
    rows        how many rows of the tallest weight are looked at; of the others as large a part
    Range: 1 for every channel is a candidate, so the error on this sample is never above that of no smoothing.
    Raises ValueError for inputs that are not finite.
    """
    if not bool(inputs.isfinite().all()):
        raise ValueError("the sample of inputs holds values that are not finite")
    sampled = spread_rows(weights, rows)
    largest_weight = torch.stack([weight.detach().float().abs().amax(0) for weight in weights]).amax(0)
    candidates = _candidates(inputs.float().abs().amax((0, 1)), largest_weight)
    return least_of(candidates, lambda scales: output_error(sampled, inputs, rounding, scales), shared)


def output_error(weights: Sequence[Tensor], inputs: Tensor, rounding: Rounding, scales: Tensor) -> float:
    """Return the squared error of the outputs, summed over tokens and outputs, where inputs and weights are rounded.

    Shapes: weights each [N, K], inputs [C, T, K], scales [K].
    """
    given = rounding.inputs(inputs / scales)
    error = 0.0
    for weight in weights:
        difference = given @ rounding.weight(weight * scales).T - inputs @ weight.T
        error += float(difference.square_().sum(dtype=torch.float64))
    return error


def _candidates(largest_input: Tensor, largest_weight: Tensor) -> Iterator[Tensor]:
    for step in range(_ALPHAS + 1):
        yield smoothing_scales(largest_input, largest_weight, step / _ALPHAS)
    top = _above_zero(largest_input).max()
    for power in range(1, _LIMITS + 1):
        yield (largest_input / (top * _STEP**power)).clamp(min=1)


def _above_zero(largest: Tensor) -> Tensor:
    """Return what can be divided by: a channel that is always 0 counts as a small one."""
    return largest.clamp(min=max(_SMALLEST * float(largest.max()), torch.finfo(torch.float32).tiny))
