from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.quantize import targets
from compress.quantize.targets import RIDGE, Moments, moved
from tests.references import gptq as reference

ROWS, WIDTH, TOKENS = 5, 12, 60


def drawn(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("tokens", [1, 7, TOKENS])
@pytest.mark.parametrize("ridge", [1e-6, RIDGE, 3.0])
def test_the_moved_weight_is_the_least_squares_with_a_ridge(ridge: float, tokens: int) -> None:
    weight, inputs, outputs = drawn(ROWS, WIDTH, 0), drawn(tokens, WIDTH, 1), drawn(tokens, ROWS, 2)
    found = moved(weight, inputs.T @ inputs, outputs.T @ inputs, ridge)
    expected = reference.moved(weight.numpy(), inputs.numpy(), outputs.numpy(), ridge)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_the_ridge_that_is_meant_is_the_one_that_was_measured() -> None:
    weight, inputs, outputs = drawn(ROWS, WIDTH, 0), drawn(TOKENS, WIDTH, 1), drawn(TOKENS, ROWS, 2)
    sums = inputs.T @ inputs, outputs.T @ inputs
    assert torch.equal(moved(weight, *sums), moved(weight, *sums, 0.05))


@pytest.mark.parametrize("tokens", [0, 1, TOKENS])
def test_a_weight_that_says_what_is_wanted_stays(tokens: int) -> None:
    weight, inputs = drawn(ROWS, WIDTH, 3).float(), drawn(tokens, WIDTH, 4)
    sums = inputs.T @ inputs
    found = moved(weight, sums, weight.double() @ sums)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, weight, rtol=1e-6, atol=1e-7)


def test_a_heavy_ridge_holds_the_weight_and_none_lets_it_go() -> None:
    weight, inputs, other = drawn(ROWS, WIDTH, 5), drawn(TOKENS, WIDTH, 6), drawn(ROWS, WIDTH, 7)
    sums = inputs.T @ inputs
    torch.testing.assert_close(moved(weight, sums, other @ sums, 1e9), weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(moved(weight, sums, other @ sums, 1e-12), other, rtol=0, atol=1e-6)


def test_channels_that_carry_nothing_keep_their_weights() -> None:
    weight, inputs, outputs = drawn(ROWS, WIDTH, 8), drawn(TOKENS, WIDTH, 9), drawn(TOKENS, ROWS, 10)
    inputs[:, [2, 7]] = 0
    found = moved(weight, inputs.T @ inputs, outputs.T @ inputs)
    torch.testing.assert_close(found[:, [2, 7]], weight[:, [2, 7]], rtol=0, atol=1e-12)
    assert float((found - weight).abs().max()) > 0.1


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_moments_are_sums_over_tokens_whatever_the_parts(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "_CHUNK", chunk)
    inputs, outputs = drawn(48, WIDTH, 11).float(), drawn(48, ROWS, 12).float()
    moments = Moments()
    for part in (slice(0, 8), slice(8, 48)):
        moments.add(inputs[part].reshape(2, -1, WIDTH), outputs[part].reshape(2, -1, ROWS))
    x, y = inputs.double(), outputs.double()
    assert moments.targets is not None
    for found, expected in ((moments.read(), x.T @ x), (moments.targets, y.T @ x)):
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_moments_are_added_up_in_float64() -> None:
    moments = Moments()
    moments.add(torch.tensor([[1e4]]))
    for _ in range(100):
        moments.add(torch.tensor([[1.0]]))
    # 1e8 + 1 is no float32
    assert float(moments.read()) == 1e8 + 100


def test_moments_may_have_no_targets_and_their_mean_size_is_that_of_each_channel() -> None:
    inputs = drawn(10, 3, 13).float()
    moments = Moments()
    moments.add(inputs[:4])
    moments.add(inputs[4:])
    assert moments.targets is None
    torch.testing.assert_close(moments.mean_sizes(), inputs.abs().mean(0))
