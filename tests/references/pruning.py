"""Slow float64 restatements of the scores of prune, token by token and column by column, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]


def block_influence(before: Sequence[Sequence[Vector]], after: Sequence[Sequence[Vector]]) -> float:
    """ShortGPT, arXiv 2403.03853, section 3: 1 - E over every token of X_in . X_out / (|X_in| |X_out|)."""
    cosines = []
    for window_in, window_out in zip(before, after, strict=True):
        for x, y in zip(window_in, window_out, strict=True):
            dot = math.fsum(a * b for a, b in zip(x, y, strict=True))
            lengths = math.sqrt(math.fsum(a * a for a in x)) * math.sqrt(math.fsum(b * b for b in y))
            cosines.append(dot / lengths)
    return 1 - math.fsum(cosines) / len(cosines)


def column_energy(activations: Sequence[Sequence[Vector]], projection: Sequence[Vector]) -> list[float]:
    """Root mean square over tokens of the norm of what each column alone adds to the projection's output."""
    width = len(projection[0])
    tokens = [token for window in activations for token in window]
    scores = []
    for column in range(width):
        squares = [math.fsum((row[column] * token[column]) ** 2 for row in projection) for token in tokens]
        scores.append(math.sqrt(math.fsum(squares) / len(tokens)))
    return scores
