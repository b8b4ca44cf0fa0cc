"""Which operator of ONNX Runtime each grid runs on, and which are slow. Imports no torch.

Measured with ONNX Runtime 1.31 on an AVX-512 CPU; the numbers are in export/blockwise.py, export/integer_matmul.py and the README's table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from compress.models.scheme import Scheme
from compress.quantize.schemes import Matrix

_SLOW_BLOCKS = {2: (16,)}


def kernel_of(scheme: Scheme, matrix: Matrix) -> str:
    """Return the operator, as `MatMulNBits, 4 bits, blocks of 32`."""
    table = "GatherBlockQuantized" if matrix.is_table else "MatMulNBits"
    if scheme.activations == "dynamic":
        return "MatMulIntegerToFloat, 8 bits, inputs in 8 bits by token"
    if scheme.activations == "static":
        return "QuantizeLinear and MatMul on 8 bits, ranges known"
    zeros = "" if scheme.symmetric else ", zero points"
    block = "an output channel" if scheme.block == scheme.shape[1] else f"blocks of {scheme.block}"
    return f"{table}, {scheme.bits} bits, {block}{zeros}"


def slow_reason(scheme: Scheme, matrix: Matrix) -> str:
    """Return why a grid runs slowly, or an empty string."""
    if scheme.activations == "none" and not matrix.is_table and scheme.block in _SLOW_BLOCKS.get(scheme.bits, ()):
        return (
            f"{scheme.bits} bits in blocks of {scheme.block} have no fast kernel in ONNX Runtime: weights are turned into float "
            "at each token, some hundred times slower; use blocks of 32 or more"
        )
    return ""


def words_of(schemes: Mapping[str, Scheme], matrices: Sequence[Matrix]) -> str:
    """Return the operators of all weights, the most used first, as `MatMulNBits, 4 bits, blocks of 32 (42 weights)`."""
    counts = Counter(kernel_of(schemes[matrix.name], matrix) for matrix in matrices if matrix.name in schemes)
    found = [f"{words} ({count} weight{'' if count == 1 else 's'})" for words, count in counts.most_common()]
    left = sum(matrix.name not in schemes for matrix in matrices)
    return "; ".join(found + ([f"MatMul in float ({left} left out)"] if left else []))
