from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.models.grid import (
    in_blocks,
    max_abs_grid,
    min_max_grid,
    nonzero,
    round_to_codes,
    squared_error,
    values,
)
from tests.references.number_grid import plain_symmetric


def random_matrix(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [4, 8])
def test_plain_symmetric_rounding_equals_the_reference(bits: int) -> None:
    blocks = in_blocks(random_matrix(3, 64), 32)
    grid = max_abs_grid(blocks, bits)
    rounded = values(round_to_codes(blocks, grid), grid)
    expected = [[plain_symmetric(block, bits) for block in row] for row in blocks.double().tolist()]
    np.testing.assert_allclose(rounded.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_blocks_hold_the_matrix_and_a_short_last_block_zeros() -> None:
    matrix = random_matrix(5, 43)
    blocks = in_blocks(matrix, 16)
    assert blocks.shape == (5, 3, 16)
    assert not blocks[:, 2, 11:].any()
    assert torch.equal(blocks.reshape(5, -1)[:, :43], matrix)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_error_is_at_most_half_a_step(bits: int) -> None:
    blocks = in_blocks(random_matrix(8, 128), 32)
    grid = max_abs_grid(blocks, bits)
    error = (values(round_to_codes(blocks, grid), grid) - blocks).abs()
    assert bool((error <= grid.scales.unsqueeze(-1) * 0.50001).all())


def test_an_asymmetric_grid_reaches_both_ends_within_a_step() -> None:
    blocks = in_blocks(random_matrix(8, 128) + 0.7, 32)
    grid = min_max_grid(blocks, 4)
    rounded = values(round_to_codes(blocks, grid), grid)
    assert bool(((rounded - blocks).abs() <= grid.scales.unsqueeze(-1) * 1.00001).all())
    assert bool((grid.zeros == grid.zeros.round()).all())
    assert 0 <= int(grid.zeros.min()) <= int(grid.zeros.max()) <= 15


def test_an_asymmetric_grid_holds_zero_when_no_weight_is_negative() -> None:
    grid = min_max_grid(in_blocks(random_matrix(4, 32).abs() + 3, 32), 4)
    assert torch.equal(grid.zeros, torch.zeros(4, 1))


def test_zero_blocks_get_scale_one_and_no_error() -> None:
    blocks = torch.zeros(2, 1, 32)
    for grid in (max_abs_grid(blocks, 4), min_max_grid(blocks, 4)):
        assert torch.equal(grid.scales, torch.ones(2, 1))
        assert float(squared_error(blocks, round_to_codes(blocks, grid), grid).sum()) == 0.0


def test_scales_too_small_to_divide_by_become_one() -> None:
    scales = torch.tensor([0.0, 1e-42, -1e-42, 1e-30, -2.0])
    assert nonzero(scales).tolist() == [1.0, 1.0, 1.0, pytest.approx(1e-30), -2.0]
