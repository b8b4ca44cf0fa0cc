from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.models.grid import Grid, in_blocks, round_to_codes, values
from compress.quantize import gptq as module
from compress.quantize.gptq import (
    Columns,
    Settings,
    columns,
    compensated_codes,
    descended_codes,
    error_factor,
    fitted_scales,
    gptq,
    output_error,
)
from compress.quantize.rtn import Rounded, round_to_nearest
from tests.references import gptq as reference

ROWS, WIDTH, BLOCK = 6, 44, 16
PUBLISHED = Settings(refine=0)


def matrix(seed: int = 0, rows: int = ROWS, width: int = WIDTH) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def moments(seed: int = 1, tokens: int = 90, width: int = WIDTH) -> Tensor:
    """Return the second moments of inputs that go together, and of which some are loud."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    inputs = inputs @ (torch.eye(width) + 0.3 * torch.randn(width, width, generator=generator)).double()
    inputs[:, ::7] *= 4
    return inputs.T @ inputs


def damped(sums: Tensor, damping: float) -> Tensor:
    return sums + damping * sums.diagonal().mean() * torch.eye(len(sums), dtype=torch.float64)


def order_of(sums: Tensor, by_activation: bool) -> Tensor:
    return torch.argsort(sums.diagonal(), descending=True) if by_activation else torch.arange(len(sums))


def start_of(weight: Tensor, sums: Tensor, bits: int, symmetric: bool, block: int = BLOCK) -> Grid:
    found = round_to_nearest(weight, bits, block, symmetric, sums.diagonal())
    return Grid(bits, found.scales, found.zeros.float())


def codes_of(rounded: Rounded, width: int = WIDTH) -> Tensor:
    return rounded.codes.flatten(1)[:, :width].float()


def back(rounded: Rounded, bits: int, width: int = WIDTH) -> Tensor:
    grid = Grid(bits, rounded.scales, rounded.zeros.float())
    return values(rounded.codes.float(), grid).flatten(1)[:, :width]


def arrays(*tensors: Tensor) -> list[reference.Floats]:
    return [tensor.double().numpy() for tensor in tensors]


def assert_alike(found: Rounded, other: Rounded) -> None:
    assert torch.equal(found.codes, other.codes)
    assert torch.equal(found.zeros, other.zeros)
    torch.testing.assert_close(found.scales, other.scales, rtol=1e-4, atol=0)


@pytest.mark.parametrize("by_activation", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_are_those_of_elimination_channel_by_channel(bits: int, symmetric: bool, by_activation: bool) -> None:
    weight, sums = matrix(), moments()
    whole, order = damped(sums, 0.01), order_of(sums, by_activation)
    grid = columns(start_of(weight, sums, bits, symmetric), BLOCK, WIDTH)
    found = compensated_codes(weight, error_factor(whole, order), grid, order)
    expected = reference.eliminated_codes(
        *arrays(weight, whole, grid.scales, grid.zeros), top=2**bits - 1, order=order.tolist()
    )
    np.testing.assert_array_equal(found.numpy(), expected)
    assert not torch.equal(found, round_to_codes_of(weight, grid))


def round_to_codes_of(weight: Tensor, grid: Columns) -> Tensor:
    return torch.round(weight / grid.scales).add(grid.zeros).clamp(0, grid.top)


@pytest.mark.parametrize(("damping", "by_activation"), [(0.01, True), (0.3, False)])
def test_without_refinement_the_whole_is_the_paper_on_searched_scales(damping: float, by_activation: bool) -> None:
    weight, sums = matrix(3), moments(4)
    found = gptq(weight, sums, (4, BLOCK, False), Settings(damping, by_activation, 0))
    start = start_of(weight, sums, 4, False)
    grid = columns(start, BLOCK, WIDTH)
    order = order_of(sums, by_activation).tolist()
    expected = reference.eliminated_codes(*arrays(weight, damped(sums, damping), grid.scales, grid.zeros), 15, order)
    np.testing.assert_array_equal(codes_of(found).numpy(), expected)
    assert torch.equal(found.scales, start.scales)
    assert torch.equal(found.zeros.float(), start.zeros)


@pytest.mark.parametrize(("bits", "symmetric"), [(2, True), (4, True), (4, False)])
def test_no_change_of_one_code_betters_codes_that_were_descended(
    bits: int, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, sums = matrix(5), moments(6)
    whole, order = damped(sums, 1e-3), order_of(sums, True)
    grid = columns(start_of(weight, sums, bits, symmetric), BLOCK, WIDTH)
    start = round_to_codes_of(weight, grid)
    once = descended_codes(weight, whole, start, grid, order)
    monkeypatch.setattr(module, "_SWEEPS", 100)
    codes = descended_codes(weight, whole, start, grid, order)
    errors = [output_error(weight, grid.values(each), whole) for each in (start, once, codes)]
    assert errors[0] > errors[1] >= errors[2]
    rows = zip(*arrays(weight, grid.scales, grid.zeros, codes), strict=True)
    for row, scales, zeros, chosen in rows:
        least = reference.least_single_change(row, whole.numpy(), scales, zeros, chosen, 2**bits - 1)
        assert least >= -1e-5 * errors[2]


@pytest.mark.parametrize("block", [BLOCK, WIDTH, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_fitted_scales_are_the_least_squares_of_the_whole_row(symmetric: bool, block: int) -> None:
    weight, whole = matrix(7), damped(moments(8), 1e-3)
    start = start_of(weight, whole, 4, symmetric, block)
    zeros = columns(start, block, WIDTH).zeros
    codes = round_to_codes_of(weight, columns(start, block, WIDTH))
    found = fitted_scales(weight, whole, codes, start, block)
    assert torch.equal(found.zeros, start.zeros)
    for row in range(ROWS):
        expected = reference.fitted_scales(*arrays(weight[row], whole, codes[row], zeros[row]), block)
        np.testing.assert_allclose(found.scales[row].numpy(), expected, rtol=2e-4, atol=1e-6)


def test_a_block_whose_codes_all_stand_for_zero_keeps_its_scale() -> None:
    weight, whole = matrix(7), damped(moments(8), 1e-3)
    start = start_of(weight, whole, 4, True)
    codes = round_to_codes_of(weight, columns(start, BLOCK, WIDTH))
    codes[2, BLOCK : 2 * BLOCK] = 8
    found = fitted_scales(weight, whole, codes, start, BLOCK)
    assert found.scales[2, 1] == start.scales[2, 1]
    assert bool((found.scales != start.scales).sum() == start.scales.numel() - 1)


@pytest.mark.parametrize(("name", "value"), [("_LAZY", 7), ("_LAZY", 1), ("_CHUNK", 2 * WIDTH), ("_CHUNK", 1)])
def test_the_parts_of_the_work_do_not_change_the_result(name: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, sums = matrix(9), moments(10)
    whole = gptq(weight, sums, (4, BLOCK, False))
    monkeypatch.setattr(module, name, value)
    assert_alike(gptq(weight, sums, (4, BLOCK, False)), whole)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_each_step_lowers_the_error_of_the_outputs(bits: int, symmetric: bool) -> None:
    weight, sums = matrix(11, 24), moments(12)
    whole, grid = damped(sums, 1e-4), (bits, BLOCK, symmetric)
    found = [round_to_nearest(weight, bits, BLOCK, symmetric, sums.diagonal())]
    found += [gptq(weight, sums, grid, Settings(refine=rounds)) for rounds in (0, 1, 2, 4)]
    errors = [output_error(weight, back(each, bits), whole) for each in found]
    assert errors[1] < errors[0]
    assert errors[2] < errors[1]
    assert errors[3] <= errors[2] * (1 + 1e-6)
    assert errors[4] <= errors[3] * (1 + 1e-6)


def test_the_output_error_is_that_of_the_outputs() -> None:
    weight, rounded = matrix(1), matrix(2)
    inputs = matrix(3, 50).double()
    expected = float((inputs @ (weight - rounded).double().T).square().sum())
    assert output_error(weight, rounded, inputs.T @ inputs) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_inputs_that_are_all_alike_give_rounding_to_nearest(bits: int, symmetric: bool) -> None:
    weight = matrix(13)
    plain = round_to_nearest(weight, bits, BLOCK, symmetric, torch.ones(WIDTH))
    for size in (1.0, 1e6):
        sums = size * torch.eye(WIDTH, dtype=torch.float64)
        assert_alike(gptq(weight, sums, (bits, BLOCK, symmetric), PUBLISHED), plain)
    nothing = gptq(weight, torch.zeros(WIDTH, WIDTH, dtype=torch.float64), (bits, BLOCK, symmetric), PUBLISHED)
    assert_alike(nothing, round_to_nearest(weight, bits, BLOCK, symmetric))
    refined = gptq(weight, torch.eye(WIDTH, dtype=torch.float64), (bits, BLOCK, symmetric))
    error, before = (float((weight - back(each, bits)).square().sum()) for each in (refined, plain))
    assert error <= before * (1 + 1e-4)


@pytest.mark.parametrize("symmetric", [True, False])
def test_channels_without_inputs_are_rounded_to_their_nearest_and_move_no_other(symmetric: bool) -> None:
    weight, sums = matrix(14), moments(15)
    dead = [0, 5, 17, 43]
    sums[dead] = 0
    sums[:, dead] = 0
    found = gptq(weight, sums, (4, BLOCK, symmetric), PUBLISHED)
    grid = columns(Grid(4, found.scales, found.zeros.float()), BLOCK, WIDTH)
    assert torch.equal(codes_of(found)[:, dead], round_to_codes_of(weight, grid)[:, dead])
    # scales as they are, codes of the others are what they are without the dead
    live = [channel for channel in range(WIDTH) if channel not in dead]
    order = torch.argsort(sums.diagonal()[live], descending=True)
    some = Columns(grid.scales[:, live], grid.zeros[:, live], 15)
    whole = damped(sums, 0.01)[live][:, live]
    assert torch.equal(
        codes_of(found)[:, live], compensated_codes(weight[:, live], error_factor(whole, order), some, order)
    )


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_one_token_is_said_almost_exactly(bits: int) -> None:
    weight, token = matrix(16), matrix(17, 1).double()
    sums = token.T @ token
    found = gptq(weight, sums, (bits, BLOCK, False))
    plain = round_to_nearest(weight, bits, BLOCK, False)
    assert output_error(weight, back(found, bits), sums) < 1e-4 * output_error(weight, back(plain, bits), sums)
    assert bool(torch.isfinite(found.scales).all())


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_size_of_the_inputs_does_not_matter(scale: float) -> None:
    weight, sums = matrix(18), moments(19)
    assert_alike(gptq(weight, scale * sums, (4, BLOCK, False)), gptq(weight, sums, (4, BLOCK, False)))


def test_rows_of_zeros_and_short_blocks_are_exact_and_padded_with_the_zero() -> None:
    weight, sums = matrix(20), moments(21)
    weight[1] = 0
    found = gptq(weight, sums, (4, BLOCK, False))
    assert not back(found, 4)[1].any()
    padding = found.codes[:, -1, WIDTH % BLOCK :]
    assert torch.equal(padding, found.zeros[:, -1:].expand_as(padding))


@pytest.mark.parametrize("width", [1, 15, 16])
def test_a_matrix_may_be_narrower_than_a_block(width: int) -> None:
    weight, sums = matrix(22, 5, width), moments(23, 30, width)
    found = gptq(weight, sums, (8, BLOCK, True))
    assert found.codes.shape == (5, 1, BLOCK)
    assert (found.codes.dtype, found.zeros.dtype) == (torch.uint8, torch.uint8)
    torch.testing.assert_close(back(found, 8, width), weight, rtol=0, atol=0.05)


def test_two_runs_give_the_same_bytes_and_the_weight_stays() -> None:
    weight, sums = matrix(24), moments(25)
    kept = (weight.clone(), sums.clone())
    first, second = (gptq(weight, sums, (4, BLOCK, False)) for _ in range(2))
    for name in ("codes", "scales", "zeros"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert torch.equal(weight, kept[0])
    assert torch.equal(sums, kept[1])


def test_what_is_not_finite_is_refused() -> None:
    weight, sums = matrix(), moments()
    sums[3, 3] = float("inf")
    with pytest.raises(ValueError, match=r"^gets inputs that are not finite$"):
        gptq(weight, sums, (4, BLOCK, True))
    weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"^holds values that are not finite$"):
        gptq(weight, moments(), (4, BLOCK, True))


def test_the_grid_of_a_matrix_is_that_of_its_blocks() -> None:
    weight = matrix(26)
    grid = start_of(weight, torch.eye(WIDTH), 4, False)
    wide = columns(grid, BLOCK, WIDTH)
    codes = round_to_codes(in_blocks(weight, BLOCK), grid)
    assert torch.equal(wide.values(codes.flatten(1)[:, :WIDTH]), values(codes, grid).flatten(1)[:, :WIDTH])
    assert torch.equal(wide.codes(weight[:, 20], 20), codes.flatten(1)[:, 20])
