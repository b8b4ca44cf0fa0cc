"""Slow float64 restatements of inputs in 8 bits, and of the product of two integer matrices."""

from __future__ import annotations

from collections.abc import Sequence


def by_row(row: Sequence[float]) -> list[float]:
    """Return a row on steps of its largest |value| / 127."""
    extreme = max(abs(value) for value in row)
    return [round(value / extreme * 127) * extreme / 127 if extreme else 0.0 for value in row]


def static(value: float, low: float, high: float) -> float:
    """Return what one of 256 codes over [low, high] stands for; 0 is one of them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    return (min(max(round(value / scale) + zero, 0), 255) - zero) * scale


def product(
    rows: Sequence[Sequence[float]], codes: Sequence[Sequence[int]], scales: Sequence[float]
) -> list[list[float]]:
    """Return rows [T, K] times the weight of codes [N, K] and scales [N]."""
    return [
        [
            scale * sum(x * code for x, code in zip(row, line, strict=True))
            for line, scale in zip(codes, scales, strict=True)
        ]
        for row in rows
    ]
