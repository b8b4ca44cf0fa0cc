"""The fit equals numpy's least squares on the augmented system, with the ridge that does best on tokens held out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.prune import least_squares
from compress.prune.least_squares import RIDGES, Moments, as_rows, solved
from tests.references import pruning as slow


def _random(*shape: int, seed: int = 0) -> Tensor:
    # Exact in float32, and so are their products: the fit multiplies in float32.
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)) / 4.0


def _ones(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1)], 1)


def check_near(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected.double(), rtol=1e-9, atol=1e-9)


def _problem(noise: float, tokens: int = 48, bias: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return inputs, targets that a matrix near `start` gives but for noise, that matrix, and start."""
    x, start = _random(tokens, 6), _random(4, 6 + bias, seed=2)
    right = start + _random(4, 6 + bias, seed=3) / 8
    targets = (_ones(x) if bias else x) @ right.T + noise * _random(tokens, 4, seed=1)
    return x, targets, right, start


def _fitted(x: Tensor, y: Tensor, start: Tensor, bias: bool = False) -> Tensor:
    moments = Moments(bias)
    moments.add(x, y)
    return moments.fit(start)


@pytest.mark.parametrize("share", [1e-4, 0.1, 10.0])
def test_a_fit_with_a_ridge_equals_the_augmented_system(share):
    x, y, start = (each.double() for each in (_random(30, 6), _random(30, 4, seed=1), _random(4, 6, seed=2)))
    found = start + solved(x.T @ x, x.T @ (y - x @ start.T), share).T
    check_near(found, slow.ridge(x, y, start, share))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("noise", [0.0, 1.0, 4.0])
def test_the_ridge_is_the_one_that_does_best_on_tokens_held_out(noise, bias):
    x, y, _, start = _problem(noise, bias=bias)
    rows = _ones(x) if bias else x
    chosen = slow.chosen_ridge([(rows.double(), y.double())], start.double(), RIDGES)
    assert chosen is not None
    assert noise or chosen == RIDGES[0]
    check_near(_fitted(x, y, start, bias), slow.ridge(rows.double(), y.double(), start.double(), chosen))


def test_little_text_and_much_noise_take_larger_ridges_and_in_the_end_nothing_is_changed():
    chosen = []
    for tokens in (10, 16, 24, 48):
        for noise in (0.5, 2.0, 8.0):
            x, y, _, start = _problem(noise, tokens)
            chosen.append(slow.chosen_ridge([(x.double(), y.double())], start.double(), RIDGES))
            expected = start if chosen[-1] is None else slow.ridge(x.double(), y.double(), start.double(), chosen[-1])
            check_near(_fitted(x, y, start), expected)
    assert {None, RIDGES[0], RIDGES[1], RIDGES[2]} <= set(chosen)


@pytest.mark.parametrize("bias", [False, True])
def test_targets_go_through_a_matrix(bias):
    x, through, start = _random(40, 6), _random(4, 5 + bias, seed=2), _random(4, 6 + bias, seed=3)
    seen = x @ _random(5, 6, seed=4).T / 4 + _random(40, 5, seed=1) / 4
    moments = Moments(bias)
    moments.add(x, seen, bias)
    rows, targets = (_ones(x), _ones(seen)) if bias else (x, seen)
    wanted = (targets @ through.T).double()
    chosen = slow.chosen_ridge([(rows.double(), wanted)], start.double(), RIDGES)
    assert chosen is not None
    assert torch.allclose(
        moments.fit(start, through), slow.ridge(rows.double(), wanted, start.double(), chosen), atol=1e-6
    )


def test_the_last_eighth_of_every_batch_is_held_out(monkeypatch):
    x, y, _, start = _problem(1.0, tokens=64)
    y[56:] = 50
    y[24:32] = -50
    moments, batches = Moments(False), []
    for begin, end in ((0, 32), (32, 64)):
        moments.add(x[begin:end], y[begin:end])
        batches.append((x[begin:end].double(), y[begin:end].double()))
    seen = [sum(parts) for parts in zip(*(((a[:28].T @ a[:28]), a[:28].T @ b[:28]) for a, b in batches), strict=True)]
    assert torch.equal(moments._seen[0], seen[0])
    assert torch.equal(moments._seen[1], seen[1])
    whole = x.double().T @ x.double()
    assert torch.equal(moments._seen[0] + moments._unseen[0], whole)
    chosen = slow.chosen_ridge(batches, start.double(), RIDGES)
    expected = start if chosen is None else slow.ridge(x.double(), y.double(), start.double(), chosen)
    check_near(moments.fit(start), expected)


def test_chunks_and_shapes_change_nothing(monkeypatch):
    x, y, _, start = _problem(0.5, bias=True)
    whole, shaped, chunks = Moments(True), Moments(True), Moments(True)
    whole.add(x, y)
    shaped.add(x.view(4, 12, 6), y.view(4, 12, 4))
    monkeypatch.setattr(least_squares, "_CHUNK", 7)
    chunks.add(x, y)
    expected = whole.fit(start)
    assert torch.equal(shaped.fit(start), expected)
    assert torch.equal(whole.fit(start), expected)
    check_near(chunks.fit(start), expected)


def test_no_other_matrix_has_a_smaller_penalised_error():
    x, y, _, start = (each.double() for each in _problem(1.0))
    penalty = 0.1 * (x**2).sum(0).mean()

    def cost(weight: Tensor) -> float:
        return float((x @ weight.T - y).square().sum() + penalty * (weight - start).square().sum())

    best = start + solved(x.T @ x, x.T @ (y - x @ start.T), 0.1).T
    assert cost(best) < cost(start)
    for seed in range(20):
        assert cost(best) < cost(best + 1e-3 * _random(4, 6, seed=seed))


def test_what_needs_no_change_is_not_changed():
    x, start = _random(30, 6), _random(4, 7, seed=2)
    assert torch.allclose(_fitted(x, _ones(x) @ start.T, start, True), start.double(), atol=1e-6)


def test_targets_that_the_inputs_say_nothing_of_leave_the_start():
    x, y, start = _random(48, 6), _random(48, 4, seed=1), torch.zeros(4, 6)
    x[42:], y[42:] = 0, 0
    # The tokens held out are all zero: no fit does better there than any other.
    assert torch.equal(_fitted(x, y, start), start.double())


def test_columns_that_never_speak_keep_their_weights():
    x, _, right, start = _problem(0.0)
    x[:, 2] = 0
    found = _fitted(x, x @ right.T, start)
    assert torch.allclose(found[:, 2], start[:, 2].double(), atol=1e-9)
    assert not torch.allclose(found[:, 3], start[:, 3].double(), atol=1e-3)


def test_silence_and_a_single_token_leave_the_start():
    start = _random(4, 6, seed=2)
    assert torch.equal(_fitted(torch.zeros(16, 6), torch.ones(16, 4), start), start.double())
    # Nothing is held out of so few, so nothing says that a fit is better.
    assert torch.equal(_fitted(_random(1, 6), _random(1, 4), start), start.double())


def test_rows_of_tokens():
    tokens = _random(2, 3, 4).double()
    assert torch.equal(as_rows(tokens, False), tokens.view(6, 4).float())
    assert torch.equal(as_rows(tokens, True), _ones(tokens.view(6, 4).float()))
    assert as_rows(tokens, True).dtype == torch.float32


def test_a_part_of_many_outputs_chooses_the_ridge_for_all():
    x, start = _random(48, 6), torch.zeros(1100, 6)
    truth = _random(1100, 6, seed=3)
    found = _fitted(x, x @ truth.T, start)
    check_near(found, slow.ridge(x.double(), (x @ truth.T).double(), start.double(), RIDGES[0]))
