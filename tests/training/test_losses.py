"""Cross-entropy against a slow restatement; what is not counted gives nothing."""

from __future__ import annotations

import math

import pytest
import torch

from compress.training.losses import UNCOUNTED, cross_entropy, next_tokens
from tests.references.training import slow_cross_entropy


def some(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 5, 11, generator=generator) * 4
    targets = torch.randint(0, 11, (3, 5), generator=generator)
    targets[0, 2], targets[2] = UNCOUNTED, UNCOUNTED
    return logits, targets


def test_it_equals_the_slow_restatement():
    logits, targets = some()
    slow = slow_cross_entropy(logits.numpy(), targets.numpy(), UNCOUNTED)
    assert float(cross_entropy(logits, targets)) == pytest.approx(slow, rel=1e-6)


def test_pieces_add_up_and_even_logits_give_the_log_of_the_vocabulary():
    logits, targets = some(1)
    pieces = sum(float(cross_entropy(logits[row : row + 1], targets[row : row + 1])) for row in range(3))
    assert float(cross_entropy(logits, targets)) == pytest.approx(pieces, rel=1e-6)
    assert float(cross_entropy(torch.zeros(1, 2, 11), torch.tensor([[3, UNCOUNTED]]))) == pytest.approx(math.log(11))


def test_half_precision_is_computed_in_float32():
    logits, targets = some(2)
    rounded = logits.bfloat16()
    assert cross_entropy(rounded, targets) == cross_entropy(rounded.float(), targets)
    assert cross_entropy(rounded, targets).dtype == torch.float32


def test_uncounted_tokens_have_no_loss_and_no_gradient():
    logits, targets = some()
    logits[0, 2] = math.inf
    logits.requires_grad_(True)
    cross_entropy(logits, targets).backward()
    assert torch.equal(logits.grad[0, 2], torch.zeros(11))
    assert torch.equal(logits.grad[2], torch.zeros(5, 11))
    assert bool((logits.grad[1].abs().sum(-1) > 0).all())


def test_a_batch_without_counted_tokens_is_zero():
    logits = torch.randn(2, 3, 7, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 3), UNCOUNTED))
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(logits.grad.abs().sum()) == 0


def test_targets_are_the_next_ids_where_those_are_counted():
    ids = torch.tensor([[4, 5, 6, 7]])
    counted = torch.tensor([[True, False, True, True]])
    assert next_tokens(ids, counted).tolist() == [[UNCOUNTED, 6, 7]]
