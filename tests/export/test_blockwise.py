from __future__ import annotations

import numpy as np
import pytest

from compress.export.blockwise import in_legal_blocks
from compress.models.quantized import QuantizedWeight, dequantize, store
from compress.models.scheme import Scheme


def random(bits: int, block: int, symmetric: bool, width: int) -> QuantizedWeight:
    generator = np.random.default_rng(bits + block)
    scheme = Scheme(bits, block, symmetric, (6, width))
    shape = (6, scheme.groups, block)
    codes = generator.integers(0, 2**bits, shape).astype(np.uint8)
    zeros = None if symmetric else generator.integers(0, 2**bits, shape[:2]).astype(np.uint8)
    return store(scheme, codes, generator.normal(size=shape[:2]).astype(np.float32), zeros)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("bits", "block", "width", "legal"),
    [
        (2, 256, 600, 128),
        (8, 64, 64, 64),
        (8, 576, 576, 64),
        (8, 341, 341, 128),
        (4, 341, 341, 128),
        (4, 2048, 2048, 256),
        (2, 48, 48, 64),
        (8, 512, 700, 64),
        (4, 7, 7, 16),
    ],
)
def test_other_blocks_of_the_same_weights(bits: int, block: int, width: int, legal: int, symmetric: bool) -> None:
    weight = random(bits, block, symmetric, width)
    found = in_legal_blocks(weight)
    np.testing.assert_array_equal(dequantize(found), dequantize(weight))
    assert (found.scheme.bits, found.scheme.symmetric, found.scheme.shape) == (bits, symmetric, (6, width))
    assert found.codes.shape == (6, found.scheme.groups, found.scheme.block * bits // 8)
    assert found.scheme.block == legal


@pytest.mark.parametrize(("bits", "block"), [(2, 32), (4, 16), (8, 256), (2, 16)])
def test_legal_blocks_and_those_that_cannot_be_parted_stay(bits: int, block: int) -> None:
    weight = random(bits, block, False, 600)
    assert in_legal_blocks(weight) is weight
