"""What a quantization says of itself: sizes, errors, and what stayed in float."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compress.contract import Json, Skipped
from compress.models import quantized
from compress.models.quantized import QuantizedWeight
from compress.models.scheme import weight_class

_FLOAT_BYTES = 4
_CHUNK = 1 << 20


@dataclass
class Errors:
    """Squared error and squared weights, by weight class."""

    error: dict[str, float] = field(default_factory=dict)
    weight: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, before: Tensor, after: Tensor) -> None:
        """Take in a weight, as it was and as it is. Shapes: both [N, K]. Memory: some rows in float64."""
        rows = max(1, _CHUNK // max(1, before.shape[-1]))
        error = weight = 0.0
        for was, became in zip(torch.split(before, rows), torch.split(after, rows), strict=True):
            error += float((became - was).double().square().sum())
            weight += float(was.double().square().sum())
        for key in (weight_class(name), "all"):
            self.error[key] = self.error.get(key, 0.0) + error
            self.weight[key] = self.weight.get(key, 0.0) + weight

    def relative(self) -> Json:
        """Return squared errors as parts of the squared weights."""
        return {key: significant(self.error[key] / max(self.weight[key], 1e-300)) for key in sorted(self.error)}


def significant(value: float, digits: int = 4) -> float:
    """Return the value rounded to significant digits, so that facts do not change with the last bit of a sum."""
    return float(f"{value:.{digits}g}")


def float_bytes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return what matrices of these shapes take in float32."""
    return {name: math.prod(shape) * _FLOAT_BYTES for name, shape in shapes.items()}


def facts_of(stored: Mapping[str, QuantizedWeight], floats: Mapping[str, int], errors: Errors) -> Json:
    """`bits_per_weight` counts scales, zero points and what stayed in float (`floats`, bytes); MB are 10^6 bytes as stored."""
    sizes = {name: entry.stored_bytes for name, entry in stored.items()} | dict(floats)
    count = sum(math.prod(entry.scheme.shape) for entry in stored.values())
    count += sum(size // _FLOAT_BYTES for size in floats.values())
    classes: dict[str, int] = {}
    for name, size in sizes.items():
        classes[weight_class(name)] = classes.get(weight_class(name), 0) + size
    schemes = {name: entry.scheme for name, entry in stored.items()}
    return {
        "precision": quantized.Schemes(schemes, tuple(floats)).precision,
        "weights": len(stored),
        "bits_per_weight": significant(8 * sum(sizes.values()) / count),
        "megabytes": {key: significant(classes[key] / 1e6) for key in sorted(classes)},
        **({"relative_squared_error": errors.relative()} if errors.error else {}),
    }


def skipped_of(
    stored: Mapping[str, QuantizedWeight], floats: Mapping[str, int], left_out: Mapping[str, str]
) -> tuple[Skipped, ...]:
    """Return what stayed in float, with its reason and its share of the bytes."""
    total = sum(entry.stored_bytes for entry in stored.values()) + sum(floats.values())
    return tuple(
        Skipped(
            name,
            f"left out by {left_out[name]!r}: stays float32, {size / 1e6:.2f} MB, {size / total:.1%} of the matrices' bytes",
        )
        for name, size in floats.items()
    )
