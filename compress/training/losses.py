"""Cross-entropy on data: sums over counted tokens, so that pieces of a batch add up exactly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

UNCOUNTED = -100


def cross_entropy_rows(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of -log p(target) over rows, in nats.

    Shapes: logits [n, V], targets [n], all of them counted.
    Numerics: float32 whatever the format of the logits, float64 where they are.
    """
    return functional.cross_entropy(
        logits if logits.dtype == torch.float64 else logits.float(), targets, reduction="sum"
    )


def next_tokens(ids: Tensor, counted: Tensor) -> Tensor:
    """Return the targets [B, T-1] of the positions 0..T-2: the next id, or UNCOUNTED where that id is not counted."""
    return torch.where(counted[:, 1:], ids[:, 1:], torch.full_like(ids[:, 1:], UNCOUNTED))
