"""KL between teacher and student against a slow restatement, and what must hold of it."""

from __future__ import annotations

import math

import pytest
import torch

from compress.distill.losses import forward_kl, gather_chances, mix
from tests.references.training import slow_forward_kl


def some(seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, 5, 13, generator=generator) * 3 for _ in range(2))
    counted = torch.rand(2, 5, generator=generator) < 0.7
    return student, teacher, counted


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_it_equals_the_slow_restatement(temperature):
    student, teacher, counted = some()
    slow = slow_forward_kl(student.numpy(), teacher.numpy(), counted.numpy(), temperature)
    assert float(forward_kl(student, teacher, counted, temperature)) == pytest.approx(slow, rel=1e-5)


def test_of_one_distribution_it_is_zero_and_never_below():
    student, teacher, counted = some(1)
    assert float(forward_kl(student, student, counted)) == 0
    assert float(forward_kl(student, student + 3.0, counted)) == pytest.approx(0, abs=1e-5)
    assert float(forward_kl(student, teacher, counted)) > 0


def test_it_is_forward():
    """A student that misses what the teacher may say pays more than one that says too much."""
    sure, unsure = torch.tensor([[[9.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]])
    every = torch.ones(1, 1, dtype=torch.bool)
    assert float(forward_kl(sure, unsure, every)) > 3 * float(forward_kl(unsure, sure, every))


def test_at_a_high_temperature_it_is_half_the_squared_difference_of_centred_logits():
    """Hinton et al. §2.1: KL times T² tends to the mean squared difference over V, halved."""
    student, teacher, _ = some(2)
    every = torch.ones(2, 5, dtype=torch.bool)
    centred = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    expected = float(centred.double().square().mean(-1).sum() / 2)
    assert float(forward_kl(student.double(), teacher.double(), every, 100.0)) == pytest.approx(expected, rel=0.05)


def test_uncounted_tokens_have_no_loss_and_no_gradient():
    student, teacher, counted = some()
    student[~counted] = math.inf
    student.requires_grad_(True)
    loss = forward_kl(student, teacher, counted)
    loss.backward()
    assert torch.equal(student.grad[~counted], torch.zeros_like(student.grad[~counted]))
    assert bool((student.grad[counted].abs().sum(-1) > 0).all())
    nothing = forward_kl(student, teacher, torch.zeros_like(counted))
    nothing.backward()
    assert float(nothing.detach()) == 0


def test_half_precision_is_computed_in_float32():
    student, teacher, counted = some()
    rounded = forward_kl(student.bfloat16(), teacher.bfloat16(), counted)
    assert rounded == forward_kl(student.bfloat16().float(), teacher.bfloat16().float(), counted)
    assert rounded.dtype == torch.float32


def test_mix_weighs_its_terms():
    terms = {"forward_kl": torch.tensor(2.0), "cross_entropy": torch.tensor(5.0)}
    assert float(mix(terms, {"forward_kl": 0.9, "cross_entropy": 0.1})) == pytest.approx(2.3)
    assert float(mix(terms, {"cross_entropy": 2.0})) == pytest.approx(10.0)


def test_gathered_chances_are_those_of_the_tokens_that_go_there():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 6) * 5 + 300
    to = torch.tensor([0, 2, 2, 0, -1, 1])
    chances = torch.softmax(logits.double() / 2.0, -1)
    expected = torch.stack([chances[..., [0, 3]].sum(-1), chances[..., 5], chances[..., [1, 2]].sum(-1)], -1)
    found = torch.softmax(gather_chances(logits, to, 3, temperature=2.0).double() / 2.0, -1)
    assert torch.allclose(found, expected / expected.sum(-1, keepdim=True), atol=1e-6)
    assert torch.allclose(gather_chances(logits, torch.arange(6), 6).softmax(-1), logits.softmax(-1), atol=1e-6)
    assert torch.isfinite(gather_chances(logits, to, 5)).all()
