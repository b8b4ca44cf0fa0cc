"""What can be said of a quantization from config.json: bytes, bits a weight, and the operators that it will run on. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from compress.export.options import FAMILIES as EXPORTED
from compress.models.scheme import stored_bytes
from compress.quantize.kernels import slow_reason, words_of
from compress.quantize.options import Budget, QuantizeOptions
from compress.quantize.schemes import assign, matrices_of

_FLOAT_BYTES = 4


def quantize_words(options: QuantizeOptions, config: Mapping[str, Any]) -> str:
    """Return `2.02 MB of matrices, 5.12 bits a weight: MatMulNBits, 4 bits, …`; empty for an unknown family."""
    try:
        matrices = matrices_of(config)
        found = assign(options, matrices)
    except ValueError:
        return ""
    if not matrices:
        return ""
    if options.chooses:
        most = (
            f"{options.bits.budget:g} bits a weight" if isinstance(options.bits, Budget) else f"{options.size_mb:g} MB"
        )
        return f"bits chosen by weight within {most}, from 2, 4 and 8: MatMulNBits"
    sizes = sum(stored_bytes(scheme) for scheme in found.schemes.values())
    sizes += sum(math.prod(matrix.shape) * _FLOAT_BYTES for matrix in matrices if matrix.name in found.left_out)
    count = sum(math.prod(matrix.shape) for matrix in matrices)
    said = f"{sizes / 1e6:,.2f} MB of matrices, {8 * sizes / count:.3g} bits a weight"
    # Operators are those of a file, which not every family has.
    return f"{said}: {words_of(found.schemes, matrices)}" if config.get("model_type") in EXPORTED else said


def slow_notes(options: QuantizeOptions, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning for each kind of weight that ONNX Runtime runs slowly."""
    if options.chooses:
        return
    try:
        matrices = matrices_of(config)
        schemes = assign(options, matrices).schemes
    except ValueError:
        return
    slow: dict[str, int] = {}
    for matrix in matrices:
        if matrix.name in schemes and (reason := slow_reason(schemes[matrix.name], matrix)):
            slow[reason] = slow.get(reason, 0) + 1
    for reason, count in slow.items():
        yield f"slow: {count} weight{'' if count == 1 else 's'}: {reason}"
