"""Losses between teacher and student against slow restatements of their papers, and what must hold of each."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from compress.distill.losses import (
    forward_kl,
    gather_chances,
    jensen_shannon,
    mix,
    reverse_kl,
    skewed_kl,
    skewed_reverse_kl,
    stored_kl,
)
from tests.references import distillation as slow

TEMPERATURES = [0.5, 1.0, 2.0, 7.0]
PAIRS = {
    "forward_kl": (forward_kl, slow.slow_forward_kl),
    "reverse_kl": (reverse_kl, slow.slow_reverse_kl),
    "jensen_shannon": (partial(jensen_shannon, beta=0.3), partial(slow.slow_jensen_shannon, beta=0.3)),
    "skewed_kl": (partial(skewed_kl, skew=0.2), partial(slow.slow_skewed_kl, skew=0.2)),
    "skewed_reverse_kl": (
        partial(skewed_reverse_kl, skew=0.2),
        partial(slow.slow_skewed_reverse_kl, skew=0.2),
    ),
}
every_loss = pytest.mark.parametrize("name", PAIRS)


def some(seed=0, rows=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, 13, generator=generator, dtype=dtype) * 3 for _ in range(2))
    return student, teacher


@every_loss
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_it_equals_the_slow_restatement(name, temperature):
    loss, restated = PAIRS[name]
    student, teacher = some()
    expected = restated(student.numpy(), teacher.numpy(), temperature)
    assert float(loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-5)
    found = loss(student.double(), teacher.double(), temperature)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(expected, rel=1e-12)


@every_loss
def test_of_one_distribution_it_is_zero_and_above_it_between_two(name):
    loss, _ = PAIRS[name]
    student, teacher = some(1)
    assert float(loss(student, student)) == pytest.approx(0, abs=1e-6)
    assert float(loss(student, student + 3.0)) == pytest.approx(0, abs=1e-5)
    assert all(float(loss(own[None], other[None])) > 0 for own, other in zip(student, teacher, strict=True))


@every_loss
def test_its_gradient_is_that_of_its_values(name):
    loss, _ = PAIRS[name]
    student, teacher = some(2, rows=3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda own: loss(own, teacher, 2.0), student.requires_grad_(True))


@every_loss
def test_half_precision_is_computed_in_float32(name):
    loss, _ = PAIRS[name]
    student, teacher = (rows.bfloat16() for rows in some())
    rounded = loss(student, teacher, 2.0)
    assert rounded.dtype == torch.float32
    assert rounded == loss(student.float(), teacher.float(), 2.0)


@every_loss
def test_logits_far_apart_stay_finite(name):
    loss, _ = PAIRS[name]
    student = torch.tensor([[3e4, 0.0, -3e4]], requires_grad=True)
    value = loss(student, torch.tensor([[-3e4, 0.0, 3e4]]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@every_loss
def test_without_rows_it_is_zero(name):
    loss, _ = PAIRS[name]
    student = torch.zeros(0, 5, requires_grad=True)
    value = loss(student, torch.zeros(0, 5))
    value.backward()
    assert float(value.detach()) == 0


def test_forward_punishes_what_is_missed_and_reverse_what_is_made_up():
    sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert float(forward_kl(sure, unsure)) > 3 * float(forward_kl(unsure, sure))
    assert float(reverse_kl(unsure, sure)) > 3 * float(reverse_kl(sure, unsure))
    assert float(reverse_kl(sure, unsure)) == pytest.approx(float(forward_kl(unsure, sure)))


def test_at_a_high_temperature_forward_kl_is_half_the_squared_difference_of_centred_logits():
    """Hinton et al. §2.1: KL times T² tends to the mean squared difference over V, halved."""
    student, teacher = some(2, dtype=torch.float64)
    centred = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    expected = float(centred.square().mean(-1).sum() / 2)
    assert float(forward_kl(student, teacher, 100.0)) == pytest.approx(expected, rel=0.05)


def test_jensen_shannon_is_bounded_symmetric_at_half_and_tends_to_both_kl():
    student, teacher = some(3, dtype=torch.float64)
    for beta in (0.1, 0.5, 0.9):
        most = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
        worst = jensen_shannon(torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 500.0]]), beta=beta)
        assert float(worst) == pytest.approx(most, rel=1e-6)
        assert 0 < float(jensen_shannon(student, teacher, beta=beta)) < len(student) * most
        swapped = jensen_shannon(teacher, student, beta=1 - beta)
        assert float(jensen_shannon(student, teacher, beta=beta)) == pytest.approx(float(swapped), rel=1e-12)
    near = 1e-7
    low, high = (float(jensen_shannon(student, teacher, beta=beta)) / near for beta in (near, 1 - near))
    assert low == pytest.approx(float(forward_kl(student, teacher)), rel=1e-3)
    assert high == pytest.approx(float(reverse_kl(student, teacher)), rel=1e-3)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_at_skew_0_the_skewed_losses_are_the_plain_ones_and_above_it_bounded(temperature):
    student, teacher = some(4)
    assert skewed_kl(student, teacher, temperature, 0.0) == forward_kl(student, teacher, temperature)
    assert skewed_reverse_kl(student, teacher, temperature, 0.0) == reverse_kl(student, teacher, temperature)
    apart = torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 500.0]])
    for loss in (skewed_kl, skewed_reverse_kl):
        assert float(loss(*apart, 1.0, 0.1)) == pytest.approx(-math.log(0.1), rel=1e-6)


def test_shares_outside_their_range_are_refused():
    student, teacher = some()
    for beta in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"^beta must lie between 0 and 1, got .*forward_kl \(0\) and reverse_kl"):
            jensen_shannon(student, teacher, beta=beta)
    for loss in (skewed_kl, skewed_reverse_kl):
        with pytest.raises(ValueError, match=r"^skew must be at least 0 and below 1, got 1.0$"):
            loss(student, teacher, skew=1.0)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_store_of_every_token_gives_forward_kl_and_its_gradient(temperature):
    student, teacher = some(5, dtype=torch.float64)
    student.requires_grad_(True)
    log_chances = torch.log_softmax(teacher / temperature, -1)
    ids = torch.stack([torch.randperm(13, generator=torch.Generator().manual_seed(row)) for row in range(6)])
    stored = log_chances.gather(-1, ids)
    estimate = stored_kl(student, ids, stored, stored.exp(), temperature)
    live = forward_kl(student, teacher, temperature)
    assert estimate.item() == pytest.approx(live.item(), rel=1e-12)
    (found,), (expected,) = (torch.autograd.grad(value, student) for value in (estimate, live))
    # ln p - ln q weighed by p: the gradient of the log's normaliser has the weights' sum, which is 1
    assert torch.allclose(found, expected, atol=1e-12)


def test_over_draws_of_the_rest_a_store_gives_forward_kl_on_average():
    student, teacher = (rows / 3 for rows in some(6, rows=1, dtype=torch.float64))
    log_p = torch.log_softmax(teacher, -1)[0]
    order = log_p.argsort(descending=True)
    top, rest = order[:4], order[4:]
    mass, draws, per_row = log_p[rest].exp().sum(), 4000, 3
    drawn = rest[
        torch.multinomial(
            log_p[rest].exp(), draws * per_row, replacement=True, generator=torch.Generator().manual_seed(0)
        )
    ].view(draws, per_row)
    ids = torch.cat([top.expand(draws, 4), drawn], -1)
    weights = torch.cat([log_p[top].exp().expand(draws, 4), (mass / per_row).expand(draws, per_row)], -1)
    estimate = stored_kl(student.expand(draws, 13), ids, log_p[ids], weights) / draws
    assert float(estimate) == pytest.approx(float(forward_kl(student, teacher)), rel=0.02)
    assert float(mass) > 0.1


def test_a_place_of_weight_0_counts_for_nothing():
    student, _ = some(7)
    ids = torch.tensor([[3, 0]]).expand(6, 2)
    log_chances = torch.tensor([[-0.5, 0.0]]).expand(6, 2)
    weights = torch.tensor([[0.6, 0.0]]).expand(6, 2)
    alone = stored_kl(student, ids[:, :1], log_chances[:, :1], weights[:, :1])
    assert stored_kl(student, ids, log_chances, weights) == alone
    log_q = torch.log_softmax(student.double(), -1)[:, 3]
    assert float(alone) == pytest.approx(float((0.6 * (-0.5 - log_q)).sum()), rel=1e-5)


def test_mix_weighs_its_terms():
    terms = {"forward_kl": torch.tensor(2.0), "cross_entropy": torch.tensor(5.0)}
    assert float(mix(terms, {"forward_kl": 0.9, "cross_entropy": 0.1})) == pytest.approx(2.3)
    assert float(mix({"cross_entropy": terms["cross_entropy"]}, {"cross_entropy": 2.0, "hidden_mse": 1.0})) == 10.0
    with pytest.raises(KeyError, match="forward_kl"):
        mix(terms, {"cross_entropy": 2.0})


def test_gathered_chances_are_those_of_the_tokens_that_go_there():
    torch.manual_seed(0)
    logits = torch.randn(5, 6) * 5 + 300
    to = torch.tensor([0, 2, 2, 0, -1, 1])
    chances = torch.softmax(logits.double() / 2.0, -1)
    expected = torch.stack([chances[..., [0, 3]].sum(-1), chances[..., 5], chances[..., [1, 2]].sum(-1)], -1)
    found = torch.softmax(gather_chances(logits, to, 3, temperature=2.0).double() / 2.0, -1)
    assert torch.allclose(found, expected / expected.sum(-1, keepdim=True), atol=1e-6)
    assert torch.allclose(gather_chances(logits, torch.arange(6), 6).softmax(-1), logits.softmax(-1), atol=1e-6)
    assert torch.isfinite(gather_chances(logits, to, 5)).all()
