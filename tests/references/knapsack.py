"""A multiple-choice knapsack solved exactly: the least cost for every number of bytes, weight after weight."""

from __future__ import annotations

from collections.abc import Sequence

Bytes = int
Cost = float


def least_cost(weights: Sequence[Sequence[tuple[Bytes, Cost]]], limit: int) -> float:
    """Return the least cost of one candidate for each weight, all together in at most `limit` bytes; infinite where none fits."""
    best = {0: 0.0}
    for candidates in weights:
        found: dict[Bytes, Cost] = {}
        for used, cost in best.items():
            for size, more in candidates:
                if used + size <= limit:
                    found[used + size] = min(found.get(used + size, float("inf")), cost + more)
        best = found
    return min(best.values(), default=float("inf"))
