from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.models.folding import ScalingGroup, tie
from compress.models.grid import Grid, in_blocks, max_abs_grid, round_to_codes, values
from compress.quantize.awq import output_error, search_scales
from compress.quantize.rtn import round_to_nearest
from tests.references import awq as reference

TOKENS, WIDTH, BLOCK = 40, 16, 8


def plain(weight: Tensor) -> Tensor:
    blocks = in_blocks(weight, BLOCK)
    grid = max_abs_grid(blocks, 4)
    return values(round_to_codes(blocks, grid), grid).reshape(len(weight), -1)[:, : weight.shape[1]]


def searched(weight: Tensor) -> Tensor:
    found = round_to_nearest(weight, 4, BLOCK, True)
    return values(found.codes.float(), Grid(4, found.scales, found.zeros.float())).reshape(weight.shape)


def inputs(seed: int = 0, loud: float = 20.0) -> Tensor:
    """Return tokens [T, K] of which two channels are loud."""
    drawn = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))
    drawn[:, [3, 9]] *= loud
    return drawn


def weights(seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, WIDTH, generator=generator), 3 * torch.randn(4, WIDTH, generator=generator)]


def statistics(tokens: Tensor) -> tuple[Tensor, Tensor]:
    return tokens.T @ tokens, tokens.abs().mean(0)


def as_float64(change: object) -> object:
    return lambda matrix: change(torch.from_numpy(matrix).float()).double().numpy()  # type: ignore[operator]


@pytest.mark.parametrize("seed", [0, 5])
def test_scales_are_those_that_the_paper_finds_from_activations(seed: int) -> None:
    tokens, matrices = inputs(seed), weights(seed + 1)
    wide = [matrix.double().numpy() for matrix in matrices]
    found = search_scales(matrices, *statistics(tokens), plain)
    expected = reference.search(wide, tokens.double().numpy(), as_float64(plain))
    assert found.numpy() == pytest.approx(np.array(expected), rel=1e-4)
    assert float(found.max()) > 1.5


def test_the_error_from_moments_is_the_error_of_the_outputs() -> None:
    tokens, matrices = inputs(), weights()
    scales = reference.scales_of(tokens.double().numpy(), [m.double().numpy() for m in matrices], 0.5, by_weight=True)
    found = output_error(matrices, statistics(tokens)[0], plain, torch.tensor(scales).float())
    expected = reference.output_error(
        [m.double().numpy() for m in matrices], tokens.double().numpy(), as_float64(plain), scales
    )
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loud", [1.0, 20.0])
@pytest.mark.parametrize("change", [plain, searched])
def test_scaling_never_loses_and_wins_where_channels_are_loud(change: object, loud: float) -> None:
    tokens, matrices = inputs(loud=loud), weights()
    moments, mean_abs = statistics(tokens)
    found = search_scales(matrices, moments, mean_abs, change)
    before, after = (output_error(matrices, moments, change, scales) for scales in (torch.ones(WIDTH), found))
    assert after <= before
    assert loud == 1.0 or after < 0.7 * before
    assert float(found.log().mean()) == pytest.approx(0, abs=1e-5)


def test_exact_weights_are_not_scaled() -> None:
    found = search_scales([torch.ones(4, WIDTH)], *statistics(inputs()), plain)
    assert torch.equal(found, torch.ones(WIDTH))


def test_shared_channels_get_one_scale() -> None:
    group = ScalingGroup(("o",), "v", "rows", repeats=2, head_dim=4)
    found = search_scales(weights(), *statistics(inputs()), plain, lambda scales: tie(scales, group))
    by_head = found.reshape(-1, 2, 4)
    assert torch.equal(by_head[:, 0], by_head[:, 1])
    assert not torch.equal(found, torch.ones(WIDTH))


def test_channels_that_are_always_zero_get_finite_scales() -> None:
    tokens = inputs()
    tokens[:, 5] = 0
    matrices = weights()
    for matrix in matrices:
        matrix[:, 7] = 0
    found = search_scales(matrices, *statistics(tokens), plain)
    assert bool((found.isfinite() & (found > 0)).all())
    silent = search_scales(matrices, torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH), plain)
    assert torch.equal(silent, torch.ones(WIDTH))


def test_tall_weights_are_judged_by_evenly_spaced_rows() -> None:
    seen: list[int] = []

    def watched(weight: Tensor) -> Tensor:
        seen.append(len(weight))
        return plain(weight)

    tall = [torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(n)) for n in (64, 16)]
    found = search_scales(tall, *statistics(inputs()), watched, rows=8)
    assert set(seen) == {8, 2}
    whole, some = (output_error(tall, statistics(inputs())[0], plain, scales) for scales in (torch.ones(WIDTH), found))
    assert some < whole


def test_the_same_statistics_give_the_same_bytes() -> None:
    first, second = (search_scales(weights(), *statistics(inputs()), searched) for _ in range(2))
    assert torch.equal(first, second)


def test_statistics_that_are_not_finite_are_refused() -> None:
    moments, mean_abs = statistics(inputs())
    moments[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^the statistics of the inputs hold values that are not finite$"):
        search_scales(weights(), moments, mean_abs, plain)
