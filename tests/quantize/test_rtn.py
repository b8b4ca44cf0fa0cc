from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.models.grid import (
    Grid,
    in_blocks,
    max_abs_grid,
    min_max_grid,
    round_to_codes,
    squared_error,
    values,
)
from compress.quantize import rtn
from compress.quantize.rtn import Rounded, round_to_nearest
from tests.references.gptq import least_weighted_error
from tests.references.number_grid import least_error


def matrix(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator) ** 3


def errors(weight: torch.Tensor, rounded: Rounded, bits: int) -> torch.Tensor:
    grid = Grid(bits, rounded.scales, rounded.zeros.float())
    blocks = in_blocks(weight, rounded.codes.shape[-1])
    return squared_error(blocks, rounded.codes.float(), grid)


@pytest.mark.parametrize(("bits", "symmetric", "slack"), [(4, True, 1.03), (4, False, 1.03), (8, True, 1.12)])
def test_the_error_is_close_to_the_least_that_a_dense_scan_finds(bits: int, symmetric: bool, slack: float) -> None:
    weight = matrix(6, 32)
    found = errors(weight, round_to_nearest(weight, bits, 16, symmetric), bits).double().flatten()
    blocks = in_blocks(weight, 16).double().reshape(-1, 16).numpy()
    least = np.array([least_error(block, bits, symmetric, 300 if not symmetric else 2000) for block in blocks])
    assert found.sum() <= least.sum() * slack
    assert bool((found.numpy() <= least * 1.5 + 1e-12).all())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_no_block_is_worse_than_plain_rounding(bits: int, symmetric: bool) -> None:
    weight = matrix(64, 72, seed=3)
    blocks = in_blocks(weight, 32)
    plain = max_abs_grid(blocks, bits) if symmetric else min_max_grid(blocks, bits)
    before = squared_error(blocks, round_to_codes(blocks, plain), plain)
    after = errors(weight, round_to_nearest(weight, bits, 32, symmetric), bits)
    assert bool((after <= before).all())
    assert float(after.sum()) < 0.95 * float(before.sum())


def test_weights_that_stand_on_a_grid_are_exact() -> None:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(-8, 8, (16, 64), generator=generator).float()
    codes[:, ::16] = -8
    weight = codes * 0.25
    rounded = round_to_nearest(weight, 4, 16, True)
    assert float(errors(weight, rounded, 4).sum()) == 0.0


def test_the_longer_side_takes_the_sign_of_the_extreme_weight() -> None:
    # +8 and -7 steps: only a negative scale puts +8 on the grid.
    weight = torch.tensor([[8.0, -7.0, 3.0, 1.0] * 4])
    rounded = round_to_nearest(weight, 4, 16, True)
    assert rounded.scales.tolist() == [[-1.0]]
    assert float(errors(weight, rounded, 4).sum()) == 0.0


@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_blocks_and_short_blocks_are_exact_and_padded_with_the_zero(symmetric: bool) -> None:
    weight = torch.zeros(3, 20)
    weight[1, :16] = torch.linspace(-1, 1, 16)
    rounded = round_to_nearest(weight, 4, 16, symmetric)
    grid = Grid(4, rounded.scales, rounded.zeros.float())
    back = values(rounded.codes.float(), grid).reshape(3, -1)[:, :20]
    assert not back[0].any()
    assert not back[2].any()
    assert bool((rounded.codes[:, 1, 4:] == rounded.zeros[:, 1:, None].expand(-1, -1, 12)[:, 0]).all())


def test_the_chunk_size_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = matrix(40, 48)
    whole = round_to_nearest(weight, 4, 16, False)
    monkeypatch.setattr(rtn, "_CHUNK", 100)
    chunked = round_to_nearest(weight, 4, 16, False)
    for name in ("codes", "scales", "zeros"):
        assert torch.equal(getattr(whole, name), getattr(chunked, name))


def test_a_weight_that_is_not_finite_is_refused() -> None:
    weight = torch.zeros(2, 16)
    weight[1, 3] = float("nan")
    with pytest.raises(ValueError, match="holds values that are not finite"):
        round_to_nearest(weight, 4, 16, True)


def importance_of(width: int, seed: int = 7) -> torch.Tensor:
    return torch.rand(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 2


def weighted_errors(weight: torch.Tensor, rounded: Rounded, bits: int, importance: torch.Tensor) -> torch.Tensor:
    """Return each block's weighted squared error [N, G]."""
    grid = Grid(bits, rounded.scales, rounded.zeros.float())
    block = rounded.codes.shape[-1]
    squares = (values(rounded.codes.float(), grid) - in_blocks(weight, block)).double().square()
    return (squares * in_blocks(importance[None], block)).sum(-1)


@pytest.mark.parametrize(("bits", "symmetric", "slack"), [(2, True, 1.01), (4, True, 1.03), (4, False, 1.05)])
def test_the_weighted_error_is_close_to_the_least_that_a_dense_scan_finds(
    bits: int, symmetric: bool, slack: float
) -> None:
    weight, importance = matrix(6, 32), importance_of(32)
    rounded = round_to_nearest(weight, bits, 16, symmetric, importance)
    found = weighted_errors(weight, rounded, bits, importance)
    blocks, weights = in_blocks(weight, 16).double().numpy(), in_blocks(importance[None], 16)[0].numpy()
    points = 800 if symmetric else 100
    least = sum(
        least_weighted_error(blocks[row, group], weights[group], bits, symmetric, points)
        for row in range(6)
        for group in range(2)
    )
    assert float(found.sum()) <= least * slack


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_no_block_is_worse_than_plain_rounding_in_what_matters(bits: int, symmetric: bool) -> None:
    weight, importance = matrix(64, 72, seed=3), importance_of(72)
    blocks = in_blocks(weight, 32)
    plain = max_abs_grid(blocks, bits) if symmetric else min_max_grid(blocks, bits)
    codes = round_to_codes(blocks, plain)
    before = weighted_errors(weight, Rounded(codes.to(torch.uint8), plain.scales, plain.zeros), bits, importance)
    after = weighted_errors(weight, round_to_nearest(weight, bits, 32, symmetric, importance), bits, importance)
    without = weighted_errors(weight, round_to_nearest(weight, bits, 32, symmetric), bits, importance)
    # the least importance of each channel is a millionth of the mean
    assert bool((after <= before * (1 + 1e-4)).all())
    assert float(after.sum()) < float(without.sum()) < float(before.sum())


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_like_importance_is_none_and_its_size_does_not_matter(symmetric: bool) -> None:
    weight, importance = matrix(24, 40), importance_of(40)
    plain = round_to_nearest(weight, 4, 16, symmetric)
    for alike in (torch.zeros(40), torch.ones(40), torch.full((40,), 1e-20)):
        found = round_to_nearest(weight, 4, 16, symmetric, alike)
        assert torch.equal(found.codes, plain.codes)
        torch.testing.assert_close(found.scales, plain.scales)
    first = round_to_nearest(weight, 4, 16, symmetric, importance)
    for size in (1e-30, 1e30):
        found = round_to_nearest(weight, 4, 16, symmetric, size * importance)
        assert torch.equal(found.codes, first.codes)
    assert not torch.equal(first.codes, plain.codes)


@pytest.mark.parametrize("symmetric", [True, False])
def test_channels_of_no_importance_are_rounded_to_what_is_nearest_on_the_grid_of_the_others(symmetric: bool) -> None:
    weight, importance = matrix(8, 40), importance_of(40)
    importance[[1, 17, 18, 39]] = 0
    importance[32:39] = 0
    found = round_to_nearest(weight, 4, 16, symmetric, importance)
    grid = Grid(4, found.scales, found.zeros.float())
    assert torch.equal(round_to_codes(in_blocks(weight, 16), grid), found.codes.float())
    assert bool(torch.isfinite(found.scales).all())
    # a block that carries nothing is rounded as if all of it carried as much
    assert torch.equal(found.codes[:, 2, :8], round_to_nearest(weight[:, 32:], 4, 16, symmetric).codes[:, 0, :8])


def test_two_bits_take_every_code() -> None:
    found = round_to_nearest(matrix(32, 64), 2, 16, False)
    assert set(found.codes.unique().tolist()) == {0, 1, 2, 3}
    assert int(found.zeros.max()) <= 3
