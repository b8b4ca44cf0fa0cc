"""Cross-entropy against a slow restatement; what is not counted gives no target."""

from __future__ import annotations

import math

import pytest
import torch

from compress.training.losses import UNCOUNTED, cross_entropy_rows, next_tokens
from tests.references.training import slow_cross_entropy


def some(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(7, 11, generator=generator) * 4, torch.randint(0, 11, (7,), generator=generator)


def test_it_equals_the_slow_restatement():
    logits, targets = some()
    slow = slow_cross_entropy(logits[None].numpy(), targets[None].numpy(), UNCOUNTED)
    assert float(cross_entropy_rows(logits, targets)) == pytest.approx(slow, rel=1e-6)
    assert float(cross_entropy_rows(logits.double(), targets)) == pytest.approx(slow, rel=1e-12)


def test_pieces_add_up_and_even_logits_give_the_log_of_the_vocabulary():
    logits, targets = some(1)
    pieces = sum(float(cross_entropy_rows(logits[row : row + 1], targets[row : row + 1])) for row in range(7))
    assert float(cross_entropy_rows(logits, targets)) == pytest.approx(pieces, rel=1e-6)
    assert float(cross_entropy_rows(torch.zeros(1, 11), torch.tensor([3]))) == pytest.approx(math.log(11))


def test_half_precision_is_computed_in_float32():
    logits, targets = some(2)
    rounded = logits.bfloat16()
    assert cross_entropy_rows(rounded, targets) == cross_entropy_rows(rounded.float(), targets)
    assert cross_entropy_rows(rounded, targets).dtype == torch.float32


def test_no_rows_give_nothing():
    assert float(cross_entropy_rows(torch.zeros(0, 11), torch.zeros(0, dtype=torch.int64))) == 0


def test_targets_are_the_next_ids_where_those_are_counted():
    ids = torch.tensor([[4, 5, 6, 7]])
    counted = torch.tensor([[True, False, True, True]])
    assert next_tokens(ids, counted).tolist() == [[UNCOUNTED, 6, 7]]
