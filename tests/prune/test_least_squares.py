"""The fit equals numpy's least squares on the augmented system; what it was told nothing about it leaves as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.prune import least_squares
from compress.prune.least_squares import Moments, as_rows
from tests.references import pruning as slow


def _random(*shape: int, seed: int = 0) -> Tensor:
    # Exact in float32, and so are their products: the fit multiplies in float32.
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)) / 4.0


def _ones(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1)], 1)


def _near(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected.double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", [1e-4, 0.1, 10.0])
def test_the_fit_equals_the_augmented_system(share):
    x, y, start = _random(30, 6), _random(30, 4, seed=1), _random(4, 6, seed=2)
    moments = Moments(bias=False)
    moments.add(x, y)
    _near(moments.fit(start, share), slow.ridge(x.double(), y.double(), start.double(), share))


def test_a_bias_is_a_column_that_reads_1():
    x, y, start = _random(30, 6), _random(30, 4, seed=1), _random(4, 7, seed=2)
    moments = Moments(bias=True)
    moments.add(x, y)
    _near(moments.fit(start, 0.1), slow.ridge(_ones(x).double(), y.double(), start.double(), 0.1))


@pytest.mark.parametrize("bias", [False, True])
def test_targets_go_through_a_matrix(bias):
    x, seen, through = _random(30, 6), _random(30, 5, seed=1), _random(4, 5 + bias, seed=2)
    start = _random(4, 6 + bias, seed=3)
    moments = Moments(bias)
    moments.add(x, seen, bias)
    rows, targets = (_ones(x), _ones(seen)) if bias else (x, seen)
    expected = slow.ridge(rows.double(), (targets @ through.T).double(), start.double(), 0.1)
    _near(moments.fit(start, 0.1, through), expected)
    # A fit of some rows is those rows of the fit.
    _near(moments.fit(start[1:3], 0.1, through[1:3]), expected[1:3])


def test_the_same_in_pieces_of_any_shape(monkeypatch):
    x, y, start = _random(4, 6, 5), _random(4, 6, 3, seed=1), _random(3, 6, seed=2)
    whole, parts, chunks = Moments(True), Moments(True), Moments(True)
    whole.add(x, y)
    for window in range(4):
        parts.add(x[window : window + 1], y[window])
    monkeypatch.setattr(least_squares, "_CHUNK", 7)
    chunks.add(x, y)
    expected = whole.fit(start, 0.1)
    assert torch.equal(parts.fit(start, 0.1), expected)
    assert torch.equal(chunks.fit(start, 0.1), expected)
    assert torch.equal(whole.fit(start, 0.1), expected)


def test_no_other_matrix_has_a_smaller_penalised_error():
    x, y, start = _random(30, 6).double(), _random(30, 4, seed=1).double(), _random(4, 6, seed=2).double()
    moments = Moments(False)
    moments.add(x, y)
    penalty = 0.1 * (x**2).sum(0).mean()

    def cost(weight: Tensor) -> float:
        return float((x @ weight.T - y).square().sum() + penalty * (weight - start).square().sum())

    best = moments.fit(start, 0.1)
    assert cost(best) < cost(start)
    for seed in range(20):
        assert cost(best) < cost(best + 1e-3 * _random(4, 6, seed=seed))


def test_what_needs_no_change_is_not_changed():
    x, start = _random(30, 6), _random(4, 7, seed=2)
    moments = Moments(True)
    moments.add(x, _ones(x) @ start.T)
    _near(moments.fit(start, 0.1), start)


def test_columns_that_never_speak_keep_their_weights():
    x, y, start = _random(30, 6), _random(30, 4, seed=1), _random(4, 6, seed=2)
    x[:, 2] = 0
    moments = Moments(False)
    moments.add(x, y)
    found = moments.fit(start, 0.1)
    assert torch.allclose(found[:, 2], start[:, 2].double(), atol=1e-12)
    assert not torch.allclose(found[:, 3], start[:, 3].double(), atol=1e-3)


def test_silence_and_a_single_token_can_be_fitted():
    start = _random(4, 6, seed=2)
    silence, one = Moments(False), Moments(False)
    silence.add(torch.zeros(5, 6), torch.zeros(5, 4))
    _near(silence.fit(start, 0.1), start)
    x, y = _random(1, 6, seed=4), _random(1, 4, seed=5)
    one.add(x, y)
    _near(one.fit(start, 0.1), slow.ridge(x.double(), y.double(), start.double(), 0.1))


def test_rows_of_tokens():
    tokens = _random(2, 3, 4).double()
    assert torch.equal(as_rows(tokens, False), tokens.view(6, 4).float())
    assert torch.equal(as_rows(tokens, True), _ones(tokens.view(6, 4).float()))
    assert as_rows(tokens, True).dtype == torch.float32
