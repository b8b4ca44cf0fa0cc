"""Cross-entropy on data: sums over counted tokens, so that pieces of a batch add up exactly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

UNCOUNTED = -100


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of -log p(target) over the counted tokens, in nats.

    Shapes: logits [B, T, V], targets [B, T] with UNCOUNTED where a token does not count.
    Numerics: float32 whatever the format of the logits; uncounted rows are taken out before the softmax, so that nothing in
    them can become NaN.
    """
    counted = targets != UNCOUNTED
    return functional.cross_entropy(logits[counted].float(), targets[counted], reduction="sum")


def next_tokens(ids: Tensor, counted: Tensor) -> Tensor:
    """Return the targets [B, T-1] of the positions 0..T-2: the next id, or UNCOUNTED where that id is not counted."""
    return torch.where(counted[:, 1:], ids[:, 1:], torch.full_like(ids[:, 1:], UNCOUNTED))
