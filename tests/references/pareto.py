"""The Pareto front restated from its definition: every point is held against every other, O(n²)."""

from __future__ import annotations

from collections.abc import Sequence


def slow_front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Return the indices of the points that no other point dominates, where smaller is better in both."""
    front = set()
    for i, (x, y) in enumerate(points):
        beaten = any(p <= x and q <= y and (p < x or q < y) for j, (p, q) in enumerate(points) if j != i)
        if not beaten:
            front.add(i)
    return front
