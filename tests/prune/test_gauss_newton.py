"""One Gauss-Newton step: equal to dense normal equations, its slopes to finite differences, and never worse than nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.activations import ACT2FN

from compress.prune import gauss_newton
from compress.prune.gauss_newton import RIDGE, FeedForward, refined, solve, squared_error
from tests.references import pruning as slow

ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
KINDS = {"gated": 2, "plain": 1}


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _ffn(matrices: int = 2, activation: str = "silu", seed: int = 0) -> FeedForward:
    inputs = tuple(_random(6, 5, seed=seed + index) / 2 for index in range(matrices))
    return FeedForward(inputs, _random(4, 6, seed=seed + 9) / 2, ACT2FN[activation])


def _problem(tokens: int = 40, seed: int = 20) -> tuple[Tensor, Tensor]:
    return _random(tokens, 5, seed=seed), _random(tokens, 4, seed=seed + 1)


def _said(ffn: FeedForward, x: Tensor) -> Tensor:
    return ffn.columns(x) @ ffn.output.T


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_slopes_are_those_of_finite_differences(kind, activation):
    ffn, (x, _) = _ffn(KINDS[kind], activation), _problem()
    columns, slopes = ffn.slopes(x)
    assert torch.equal(columns, ffn.columns(x))
    expected = slow.slopes(ffn.inputs, ffn.activation, x)
    assert len(slopes) == len(expected) == KINDS[kind]
    for found, slope in zip(slopes, expected, strict=True):
        assert torch.allclose(found, slope, atol=1e-7)
        assert not found.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_slopes_are_the_first_order_of_a_change(kind):
    ffn, (x, _) = _ffn(KINDS[kind]), _problem()
    deltas = [_random(6, 5, seed=30 + index) for index in range(KINDS[kind])]
    _, slopes = ffn.slopes(x)
    expected = sum(slope * (x @ delta.T) for slope, delta in zip(slopes, deltas, strict=True))
    step = 1e-6
    difference = (ffn.moved(deltas, step).columns(x) - ffn.moved(deltas, -step).columns(x)) / (2 * step)
    assert torch.allclose(difference, expected, atol=1e-6)


@pytest.mark.parametrize("activation", ["silu", "gelu_new", "relu"])
@pytest.mark.parametrize("kind", KINDS)
def test_many_iterations_equal_the_normal_equations(kind, activation):
    ffn, (x, target) = _ffn(KINDS[kind], activation), _problem()
    found = solve(ffn, x, target, iterations=400)
    expected = slow.gauss_newton_step(ffn.inputs, ffn.output, ffn.activation, x, target, RIDGE)
    assert len(found) == len(expected) == KINDS[kind]
    for mine, reference in zip(found, expected, strict=True):
        assert torch.allclose(mine, reference, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_solved_with_white_inputs(kind, monkeypatch):
    """Whichever square root of the second moments whitens: the reference takes another one, and solves at once."""
    wanted, (x, noise) = _ffn(KINDS[kind], seed=40), _problem(200)
    x = x @ _random(5, 5, seed=3) + 0.5
    near = tuple(each + 0.02 * _random(6, 5, seed=index) for index, each in enumerate(wanted.inputs))
    ffn = FeedForward(near, wanted.output, wanted.activation)
    target = _said(wanted, x) + 0.01 * noise
    own = gauss_newton.solve
    monkeypatch.setattr(gauss_newton, "solve", lambda *args: own(*args, iterations=400))
    better = refined(ffn, x, target, held_out=50)
    root = slow.white(x[:150], gauss_newton._DAMPING)
    inputs, rows = [each @ root for each in ffn.inputs], x[:150] @ root.inverse()
    deltas = slow.gauss_newton_step(inputs, ffn.output, ffn.activation, rows, target[:150], RIDGE)
    steps = [ffn.moved([delta @ root.inverse() for delta in deltas], length) for length in gauss_newton.LENGTHS]
    best = min(steps, key=lambda each: float((target - _said(each, x))[150:].square().sum()))
    for found, expected in zip(better.inputs, best.inputs, strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
    assert better is not ffn


def test_every_iteration_lowers_the_linear_error():
    ffn, (x, target) = _ffn(), _problem()
    _, slopes = ffn.slopes(x)

    def error(deltas: list[Tensor]) -> float:
        moved = sum(slope * (x @ delta.T) for slope, delta in zip(slopes, deltas, strict=True))
        return float((target - _said(ffn, x) - moved @ ffn.output.T).square().sum())

    errors = [error(solve(ffn, x, target, iterations=count)) for count in range(6)]
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == 6


def test_chunks_of_tokens_change_nothing(monkeypatch):
    ffn, (x, target) = _ffn(), _problem()
    whole, error = solve(ffn, x, target), squared_error(ffn, x, target)
    monkeypatch.setattr(gauss_newton, "_CHUNK", 7)
    for mine, reference in zip(solve(ffn, x, target), whole, strict=True):
        assert torch.allclose(mine, reference, atol=1e-9)
    assert squared_error(ffn, x, target) == pytest.approx(error, rel=1e-12)
    assert error == pytest.approx(float((target - _said(ffn, x)).square().sum()), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_a_step_never_raises_the_error_of_unseen_tokens(kind, seed):
    ffn, (x, target) = _ffn(KINDS[kind], seed=seed), _problem(24, seed=50 + seed)
    # Targets of the unseen tokens that nothing about the seen ones tells.
    better = refined(ffn, x, target, held_out=8)
    assert squared_error(better, x[16:], target[16:]) <= squared_error(ffn, x[16:], target[16:])


def test_a_step_finds_what_can_be_found():
    wanted = _ffn(seed=40)
    near = FeedForward(
        tuple(w + 0.05 * _random(6, 5, seed=i) for i, w in enumerate(wanted.inputs)), wanted.output, wanted.activation
    )
    x, _ = _problem(400)
    target = _said(wanted, x)
    better = refined(near, x, target, held_out=50)
    assert squared_error(better, x, target) < 0.05 * squared_error(near, x, target)
    assert better.output is near.output


def test_the_length_with_the_least_error_of_unseen_tokens_is_taken(monkeypatch):
    ffn, (x, _) = _ffn(), _problem(24)
    deltas = [_random(6, 5, seed=7), _random(6, 5, seed=8)]
    monkeypatch.setattr(gauss_newton, "solve", lambda *_args: deltas)
    monkeypatch.setattr(gauss_newton, "_mixing", lambda x: torch.eye(x.shape[1]).to(x))
    for length in gauss_newton.LENGTHS:
        aim = _said(ffn.moved(deltas, length), x)
        better = refined(ffn, x, aim, held_out=8)
        assert all(torch.equal(a, b) for a, b in zip(better.inputs, ffn.moved(deltas, length).inputs, strict=True))
    assert refined(ffn, x, _said(ffn, x), held_out=8) is ffn


def test_the_last_tokens_are_not_seen():
    ffn, (x, target) = _ffn(), _problem(24)
    other = target.clone()
    other[16:] = 100
    seen: list[Any] = []
    own = gauss_newton.solve
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gauss_newton, "solve", lambda *args: (seen.append(args[1:]), own(*args))[1])
        refined(ffn, x, target, held_out=8)
        refined(ffn, x, other, held_out=8)
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert len(seen[0][0]) == 16


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_mend_is_no_step(kind):
    ffn, (x, _) = _ffn(KINDS[kind]), _problem()
    target = _said(ffn, x)
    assert all(torch.count_nonzero(delta) == 0 for delta in solve(ffn, x, target))
    assert refined(ffn, x, target, held_out=8) is ffn


@pytest.mark.parametrize("what", ["silence", "dead columns", "no output"])
def test_what_no_step_can_mend_is_left(what):
    ffn, (x, target) = _ffn(1, "relu"), _problem()
    if what == "silence":
        x = torch.zeros_like(x)
    elif what == "dead columns":
        x, ffn = x.abs(), FeedForward((-ffn.inputs[0].abs(),), ffn.output, ffn.activation)
    else:
        ffn = FeedForward(ffn.inputs, torch.zeros_like(ffn.output), ffn.activation)
    assert all(torch.count_nonzero(delta) == 0 for delta in solve(ffn, x, target))
    assert refined(ffn, x, target, held_out=8) is ffn


def test_what_float32_cannot_tell_from_nothing_ends_the_iterations():
    ffn, (x, target) = _ffn(), _problem()
    small = FeedForward(tuple(1e-12 * each.float() for each in ffn.inputs), 1e-12 * ffn.output.float(), ffn.activation)
    found = solve(small, 1e-9 * x.float(), 1e-12 * target.float())
    assert all(torch.isfinite(delta).all() for delta in found)


def test_one_token_is_enough():
    ffn, (x, target) = _ffn(), _problem(2)
    better = refined(ffn, x, target, held_out=1)
    assert squared_error(better, x[1:], target[1:]) <= squared_error(ffn, x[1:], target[1:])


def test_the_same_twice_and_the_arguments_as_they_were():
    ffn, (x, target) = _ffn(), _problem()
    copies = [each.clone() for each in (*ffn.inputs, ffn.output, x, target)]
    one, two = (refined(ffn, x, target, held_out=5).inputs for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(copies, (*ffn.inputs, ffn.output, x, target), strict=True))


def test_it_works_where_gradients_are_off_and_leaves_none():
    ffn, (x, target) = _ffn(), _problem()
    with torch.no_grad():
        inside = refined(ffn, x, target, held_out=5).inputs
    outside = refined(ffn, x, target, held_out=5).inputs
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
    assert not any(each.requires_grad for each in outside)
