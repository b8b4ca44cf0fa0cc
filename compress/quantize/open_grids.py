"""What a choice of bits by weight may choose from, and how many bytes it may take: from options, names and shapes alone. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from compress.models.families import axis_sizes, parameters_of
from compress.models.scheme import Scheme, stored_bytes
from compress.quantize.kernels import slow_reason
from compress.quantize.options import Budget, QuantizeOptions
from compress.quantize.schemes import Assignment, Matrix, assign, matrices_of, said_of

# Blocks that may be chosen, by bits: wider ones save little where codes are wide, narrower ones cost as much as another bit.
BLOCKS = {2: (32, 64, 128), 4: (16, 32, 64, 128), 8: (32, 64, 128)}
_SMALLEST = 16
_FLOAT_BYTES = 4


def grids_of(options: QuantizeOptions, matrix: Matrix, start: Scheme) -> list[Scheme]:
    """Return the grids that a weight may get: those that its own options leave open, the slow ones only where they name the bits.

    A weight whose inputs are rounded has one grid, `start`.
    """
    if start.activations != "none":
        return [start]
    said = said_of(options, matrix)
    found = []
    for bits in (said["bits"],) if "bits" in said else tuple(BLOCKS):
        for block in (said["block"],) if "block" in said else BLOCKS[bits]:
            if len(matrix.names) > 1 and matrix.shape[1] % block:
                continue
            symmetric = said.get("symmetric", options.symmetric or bits == 8)
            scheme = replace(start, bits=bits, block=block, symmetric=symmetric)
            if "bits" in said or not slow_reason(scheme, matrix):
                found.append(scheme)
    # of a tied embedding whose width only the smallest block divides
    return found or [replace(start, block=_SMALLEST)]


def allowed_bytes(options: QuantizeOptions, matrices: Sequence[Matrix], assignment: Assignment, vectors: int) -> int:
    """Return how many bytes the codes, scales and zero points of all weights may take; `vectors` counts numbers in no matrix."""
    left_out = sum(math.prod(matrix.shape) * _FLOAT_BYTES for matrix in matrices if matrix.name in assignment.left_out)
    if isinstance(options.bits, Budget):
        count = sum(math.prod(matrix.shape) for matrix in matrices)
        return int(options.bits.budget * count / 8) - left_out
    assert options.size_mb is not None
    return int(options.size_mb * 1e6) - left_out - vectors * _FLOAT_BYTES


def refuse_impossible(options: QuantizeOptions, config: Mapping[str, Any]) -> None:
    """Raise ValueError where even the smallest choice is larger than what is asked for, as far as config.json says."""
    if not options.chooses or not (matrices := matrices_of(config)):
        return
    assignment, sizes = assign(options, matrices), axis_sizes(config)
    vectors = sum(sizes[each.axes[0]] for each in parameters_of(config) if len(each.axes) == 1 and not each.shared)
    least = sum(
        min(stored_bytes(grid) for grid in grids_of(options, matrix, assignment.schemes[matrix.name]))
        for matrix in matrices
        if matrix.name in assignment.schemes
    )
    missing = least - allowed_bytes(options, matrices, assignment, vectors)
    if missing <= 0:
        return
    if isinstance(options.bits, Budget):
        count = sum(math.prod(matrix.shape) for matrix in matrices)
        lowest = math.ceil(100 * (options.bits.budget + 8 * missing / count)) / 100
        raise ValueError(f"bits.budget {options.bits.budget:g} cannot be met; the least here is {lowest:g}")
    assert options.size_mb is not None
    lowest = math.ceil(1000 * (options.size_mb + missing / 1e6)) / 1000
    raise ValueError(f"size_mb {options.size_mb:g} cannot be met; the least here is {lowest:g}")
