"""Words for the operators that weights run on."""

from __future__ import annotations

from typing import Any

import pytest

from compress.models.scheme import Scheme
from compress.quantize.kernels import kernel_of, slow_reason, words_of
from compress.quantize.schemes import Matrix

PROJECTION = Matrix(("model.layers.0.mlp.up_proj.weight",), (48, 64))
TABLE = Matrix(("model.embed_tokens.weight",), (100, 64))
TIED = Matrix(("model.embed_tokens.weight", "lm_head.weight"), (100, 64))


def scheme(bits: int, block: int, symmetric: bool = True, activations: Any = "none") -> Scheme:
    return Scheme(bits, block, symmetric, (48, 64), activations)


@pytest.mark.parametrize(
    ("grid", "matrix", "words"),
    [
        (scheme(4, 32), PROJECTION, "MatMulNBits, 4 bits, blocks of 32"),
        (scheme(2, 16, False), PROJECTION, "MatMulNBits, 2 bits, blocks of 16, zero points"),
        (scheme(8, 64), PROJECTION, "MatMulNBits, 8 bits, an output channel"),
        (scheme(4, 16), TABLE, "GatherBlockQuantized, 4 bits, blocks of 16"),
        (scheme(4, 16), TIED, "MatMulNBits, 4 bits, blocks of 16"),
        (
            scheme(8, 64, activations="dynamic"),
            PROJECTION,
            "MatMulIntegerToFloat, 8 bits, inputs in 8 bits by token",
        ),
        (scheme(8, 64, activations="static"), TIED, "QuantizeLinear and MatMul on 8 bits, ranges known"),
    ],
)
def test_each_kind_of_grid_has_its_operator(grid: Scheme, matrix: Matrix, words: str) -> None:
    assert kernel_of(grid, matrix) == words


def test_two_bits_in_blocks_of_sixteen_alone_are_slow() -> None:
    said = (
        "2 bits in blocks of 16 have no fast kernel in ONNX Runtime: weights are turned into float at each token, "
        "some hundred times slower; use blocks of 32 or more"
    )
    assert slow_reason(scheme(2, 16), PROJECTION) == slow_reason(scheme(2, 16, False), TIED) == said
    # rows are read from a table, nothing is multiplied with it
    assert slow_reason(scheme(2, 16), TABLE) == ""
    for bits, block in ((2, 32), (4, 16), (8, 16), (8, 64)):
        assert slow_reason(scheme(bits, block), PROJECTION) == ""


def test_operators_are_counted_the_most_used_first_and_what_is_left_out_last() -> None:
    matrices = [Matrix((f"model.layers.{at}.mlp.up_proj.weight",), (48, 64)) for at in range(4)]
    schemes = {matrix.name: scheme(4, 32) for matrix in matrices[1:3]} | {TABLE.name: scheme(8, 32)}
    assert words_of(schemes, [TABLE, *matrices]) == (
        "MatMulNBits, 4 bits, blocks of 32 (2 weights); GatherBlockQuantized, 8 bits, blocks of 32 (1 weight); "
        "MatMul in float (2 left out)"
    )
    assert words_of(schemes, [TABLE]) == "GatherBlockQuantized, 8 bits, blocks of 32 (1 weight)"
