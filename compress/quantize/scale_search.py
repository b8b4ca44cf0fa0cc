"""The search that AWQ and SmoothQuant share: of candidate channel scales the ones with the least error. Knows tensors only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]


def least_of(candidates: Iterable[Tensor], error: Callable[[Tensor], float], shared: Change | None) -> Tensor:
    """Return the scales [K] with the least error: 1 for every channel, or a candidate [K], made equal by `shared` where it must be."""
    best: Tensor | None = None
    least = 0.0
    for candidate in candidates:
        if best is None:
            best = torch.ones_like(candidate)
            least = error(best)
        scales = candidate if shared is None else shared(candidate)
        found = error(scales)
        if found < least:
            best, least = scales, found
    assert best is not None
    return best


def spread_rows(weights: Sequence[Tensor], rows: int) -> list[Tensor]:
    """Return every n-th row of each weight, so that the tallest has at most `rows`: the weights stay in proportion."""
    step = max(1, -(-max(len(weight) for weight in weights) // rows))
    return [weight.detach()[::step].float() for weight in weights]
