"""The verb `quantize`: every matrix of a causal language model on an integer grid.

The target folder holds the model with dequantized weights, which opens like any other, and quantization.safetensors with
the codes, which export packs into ONNX.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.contract import Context, Json, Outcome, Skipped
from compress.errors import StageError
from compress.models import quantized
from compress.models.folder import load_model, read_config, save_model
from compress.quantize.options import QuantizeOptions, plan
from compress.quantize.rtn import round_to_nearest

_FLOAT_BITS = 32
_SHOWN_NAMES = 4


@dataclass(frozen=True)
class Matrix:
    """A weight to quantize, with every name it goes by: a tied embedding is the lm_head too."""

    names: tuple[str, ...]
    weight: Tensor

    @property
    def name(self) -> str:
        """Return the first name."""
        return self.names[0]


@dataclass
class _Errors:
    """Squared error and squared weights, by weight class."""

    error: dict[str, float]
    weight: dict[str, float]

    def add(self, name: str, before: Tensor, after: Tensor) -> None:
        for key in (quantized.weight_class(name), "all"):
            difference = (after - before).double()
            self.error[key] = self.error.get(key, 0.0) + float(difference.square().sum())
            self.weight[key] = self.weight.get(key, 0.0) + float(before.double().square().sum())

    def relative(self) -> Json:
        return {key: significant(self.error[key] / max(self.weight[key], 1e-300)) for key in sorted(self.error)}


def run(options: QuantizeOptions, context: Context) -> Outcome:
    """Quantize every matrix of context.source into context.target.

    Raises StageError where the model is quantized already, a pattern matches nothing, or a weight cannot be quantized.
    """
    if quantized.is_quantized(context.source):
        raise StageError(
            f"{context.source}: the model is quantized already ({quantized.precision(context.source)}); quantize the model "
            "that it was made from (from:), or leave this stage out"
        )
    try:
        plan(options, read_config(context.source))
    except ValueError as error:
        raise StageError(f"{context.source}: {error}") from error
    model = load_model(context.source)
    matrices = list_matrices(model)
    left_out = match_left_out(matrices, options.leave_out)
    chosen = [matrix for matrix in matrices if matrix.name not in left_out]
    _refuse_unfit(model, chosen)
    with _one_thread():
        stored, errors = _quantize(chosen, options, context)
    save_model(model, context.target, context.source)
    quantized.write(context.target, stored, sorted(left_out))
    float_bytes = {
        matrix.name: matrix.weight.numel() * _FLOAT_BITS // 8 for matrix in matrices if matrix.name in left_out
    }
    return Outcome(_facts(stored, float_bytes, errors), _skipped(stored, float_bytes, left_out))


def list_matrices(model: Any) -> list[Matrix]:
    """Return every weight of two dimensions or more, each once, in the model's order."""
    names: dict[int, list[str]] = {}
    weights: dict[int, Tensor] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if weight.ndim >= 2:
            names.setdefault(id(weight), []).append(name)
            weights[id(weight)] = weight
    return [Matrix(tuple(found), weights[key]) for key, found in names.items()]


def match_left_out(matrices: Sequence[Matrix], patterns: Sequence[str]) -> dict[str, str]:
    """Return the name of each matrix that a pattern matches, with that pattern.

    Raises StageError for a pattern that matches none, and where nothing would be left to quantize.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        matched = [matrix.name for matrix in matrices if any(fnmatchcase(name, pattern) for name in matrix.names)]
        if not matched:
            examples = ", ".join(_spread([matrix.name for matrix in matrices]))
            raise StageError(f"quantize.leave_out: {pattern!r} matches no weight; there are, for example, {examples}")
        found |= {name: found.get(name, pattern) for name in matched}
    if len(found) == len(matrices):
        raise StageError("quantize.leave_out matches every weight; nothing is left to quantize")
    return found


def significant(value: float, digits: int = 4) -> float:
    """Return the value rounded to significant digits, so that facts do not change with the last bit of a sum."""
    return float(f"{value:.{digits}g}")


def _spread(names: Sequence[str]) -> list[str]:
    step = max(1, len(names) // _SHOWN_NAMES)
    return list(names[::step][:_SHOWN_NAMES])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: the search is many small steps, and beside other work threads that wait for each other
    at each of them have been measured a hundred times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _refuse_unfit(model: Any, chosen: Sequence[Matrix]) -> None:
    transposed = [name for name, module in model.named_modules() if type(module).__name__ == "Conv1D"]
    if transposed:
        raise StageError(
            f"{transposed[0]} and {len(transposed) - 1} more layers store their weights with the input axis first (Conv1D): "
            "no export takes such a model; start from a Llama-like model"
        )
    deep = [matrix.name for matrix in chosen if matrix.weight.ndim > 2]
    if deep:
        raise StageError(
            f"{len(deep)} weights have more than two dimensions, {', '.join(deep[:_SHOWN_NAMES])}: blocks along an input axis "
            "are made of matrices only; name them in quantize.leave_out to keep them in float"
        )


def _quantize(
    chosen: Sequence[Matrix], options: QuantizeOptions, context: Context
) -> tuple[dict[str, quantized.QuantizedWeight], _Errors]:
    """Put the dequantized weights into the model, and return what is stored."""
    stored: dict[str, quantized.QuantizedWeight] = {}
    errors = _Errors({}, {})
    total = sum(matrix.weight.numel() for matrix in chosen)
    done = 0
    for matrix in chosen:
        weight = matrix.weight.detach()
        try:
            rounded = round_to_nearest(weight, options.bits, options.block, options.symmetric)
        except ValueError as error:
            raise StageError(f"{matrix.name}: {error}; the model is damaged, train or load it again") from error
        scheme = quantized.Scheme(options.bits, options.block, options.symmetric, (weight.shape[0], weight.shape[1]))
        zeros = None if options.symmetric else rounded.zeros.numpy()
        entry = quantized.store(scheme, rounded.codes.numpy(), rounded.scales.numpy(), zeros)
        values = torch.from_numpy(quantized.dequantize(entry))
        errors.add(matrix.name, weight, values)
        weight.copy_(values)
        stored[matrix.name] = entry
        done += weight.numel()
        context.progress(done, total, "weights", matrix.name)
    return stored, errors


def _facts(stored: Mapping[str, quantized.QuantizedWeight], float_bytes: Mapping[str, int], errors: _Errors) -> Json:
    """`bits_per_weight` counts scales, zero points and what stayed in float; MB are 10^6 bytes as stored."""
    sizes = {name: entry.stored_bytes for name, entry in stored.items()} | dict(float_bytes)
    count = sum(int(np.prod(entry.scheme.shape)) for entry in stored.values())
    count += sum(size * 8 // _FLOAT_BITS for size in float_bytes.values())
    classes: dict[str, int] = {}
    for name, size in sizes.items():
        classes[quantized.weight_class(name)] = classes.get(quantized.weight_class(name), 0) + size
    return {
        "precision": quantized.Schemes(
            {name: entry.scheme for name, entry in stored.items()}, tuple(float_bytes)
        ).precision,
        "weights": len(stored),
        "bits_per_weight": significant(8 * sum(sizes.values()) / count),
        "megabytes": {key: significant(classes[key] / 1e6) for key in sorted(classes)},
        "relative_squared_error": errors.relative(),
    }


def _skipped(
    stored: Mapping[str, quantized.QuantizedWeight], float_bytes: Mapping[str, int], left_out: Mapping[str, str]
) -> tuple[Skipped, ...]:
    total = sum(entry.stored_bytes for entry in stored.values()) + sum(float_bytes.values())
    return tuple(
        Skipped(
            name,
            f"left out by {left_out[name]!r}: stays float32, {size / 1e6:.2f} MB, {size / total:.1%} of the matrices' bytes",
        )
        for name, size in float_bytes.items()
    )
