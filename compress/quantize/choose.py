"""Bits and block of each weight, so that all of them fit a number of bytes at the least cost. Knows numbers only.

A multiple-choice knapsack, solved greedily: every weight begins with its smallest candidate; then the step that saves most cost for a
byte is taken, on the convex hull of each weight's candidates, for as long as one fits; what is left goes to whatever still fits and
saves most. The result is the best one but for what the last step could not use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """What a weight may become: bytes as stored, and what it costs (any unit that adds up)."""

    bytes: int
    cost: float


def choose(weights: Sequence[Sequence[Candidate]], limit: int) -> list[int]:
    """Return which candidate each weight gets, so that their bytes are at most `limit`.

    Raises ValueError where the smallest ones are more; the message says by how much.
    """
    chosen = [min(range(len(some)), key=lambda at: (some[at].bytes, some[at].cost)) for some in weights]
    left = limit - sum(some[at].bytes for some, at in zip(weights, chosen, strict=True))
    if left < 0:
        raise ValueError(f"the smallest choice takes {limit - left:,} bytes, {limit:,} are allowed")
    hulls = [_hull(some, at) for some, at in zip(weights, chosen, strict=True)]
    while True:
        steps = [
            (_saving(weights[which], chosen[which], hull[0]), which)
            for which, hull in enumerate(hulls)
            if hull and weights[which][hull[0]].bytes - weights[which][chosen[which]].bytes <= left
        ]
        if not steps:
            break
        _, which = max(steps, key=lambda step: (step[0], -step[1]))
        target = hulls[which].pop(0)
        left -= weights[which][target].bytes - weights[which][chosen[which]].bytes
        chosen[which] = target
    return _filled(weights, chosen, left)


def _saving(some: Sequence[Candidate], now: int, then: int) -> float:
    return (some[now].cost - some[then].cost) / (some[then].bytes - some[now].bytes)


def _hull(some: Sequence[Candidate], start: int) -> list[int]:
    """Return the candidates larger than the start on the lower convex hull of cost over bytes, by size."""
    found = [start]
    while True:
        now = found[-1]
        better = [at for at, each in enumerate(some) if each.bytes > some[now].bytes and each.cost < some[now].cost]
        if not better:
            return found[1:]
        found.append(max(better, key=lambda at: (_saving(some, now, at), some[at].bytes)))


def _filled(weights: Sequence[Sequence[Candidate]], chosen: list[int], left: int) -> list[int]:
    while True:
        fitting = [
            (some[now].cost - some[at].cost, -which, at)
            for which, (some, now) in enumerate(zip(weights, chosen, strict=True))
            for at in range(len(some))
            if some[at].bytes - some[now].bytes <= left and some[at].cost < some[now].cost
        ]
        if not fitting:
            return chosen
        _, which, at = max(fitting)
        left -= weights[-which][at].bytes - weights[-which][chosen[-which]].bytes
        chosen[-which] = at
