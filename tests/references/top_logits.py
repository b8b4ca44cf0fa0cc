"""A record of top logits read bit by bit, and divergences in plain Python, all float64."""

from __future__ import annotations

import math
from collections.abc import Sequence


def softmax(logits: Sequence[float]) -> list[float]:
    """Chances of one row of logits."""
    largest = max(logits)
    powers = [math.exp(value - largest) for value in logits]
    total = math.fsum(powers)
    return [power / total for power in powers]


def divergence(p: Sequence[float], q: Sequence[float]) -> float:
    """KL(p || q) in nats."""
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def read_record(record: bytes, vocabulary: int, top: int, samples: int) -> list[tuple[int, float, float]]:
    """(id, ln p, weight) of every token of one record, as the format's description says it."""
    kept = min(top, vocabulary)
    drawn = samples if kept < vocabulary else 0
    bits = [byte >> place & 1 for byte in record for place in range(8)]
    start = 0

    def number(width: int) -> int:
        nonlocal start
        start += width
        return sum(bit << place for place, bit in enumerate(bits[start - width : start]))

    odds = (number(16) - 32768) / 1024
    span = max(number(16), 1) / 1024
    ids = [number(max(1, math.ceil(math.log2(vocabulary)))) for _ in range(kept + drawn)]
    below = [0.0] + [(number(10) / 1023) ** 2 * span for _ in range(kept - 1)]
    rest = 1 / (1 + math.exp(-odds)) if drawn else 0.0
    total = math.fsum(math.exp(-distance) for distance in below)
    log_chances = [math.log1p(-rest) - math.log(total) - distance for distance in below]
    further = [log_chances[-1] - (number(10) / 1023) ** 2 * 16 for _ in range(drawn)]
    weights = [math.exp(value) for value in log_chances] + [rest / drawn for _ in range(drawn)]
    return list(zip(ids, log_chances + further, weights, strict=True))
