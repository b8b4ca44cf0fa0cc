"""Slow restatements of the quality measurements: one sequence at a time, a float64 torch model, sums in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def log_probabilities(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """ln p [T, V] in float64 after each token of one sequence; `model` is a torch model in float64."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([list(ids)])).logits[0], -1)


def mean_nll(model: Any, windows: np.ndarray, counted: np.ndarray) -> float:
    """Mean negative log-likelihood, nats, of the counted tokens 2..T of each window."""
    found = []
    for ids, flags in zip(windows.tolist(), counted.tolist(), strict=True):
        table = log_probabilities(model, ids)
        found += [-float(table[place - 1, ids[place]]) for place in range(1, len(ids)) if flags[place]]
    return math.fsum(found) / len(found)


def divergence(teacher: Any, model: Any, windows: np.ndarray, counted: np.ndarray) -> tuple[float, float]:
    """Mean KL(teacher || model), nats a token, and the share of counted tokens where both prefer the same one."""
    terms, same = [], []
    for ids, flags in zip(windows.tolist(), counted.tolist(), strict=True):
        left, right = log_probabilities(teacher, ids), log_probabilities(model, ids)
        for place in range(1, len(ids)):
            if flags[place]:
                p, q = left[place - 1].tolist(), right[place - 1].tolist()
                terms.append(math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)))
                same.append(p.index(max(p)) == q.index(max(q)))
    return math.fsum(terms) / len(terms), sum(same) / len(same)


def bits_per_byte(model: Any, documents: Sequence[Sequence[int]], byte_counts: Sequence[int]) -> float:
    """Total bits of tokens 2..T of each document over total bytes."""
    nats = []
    for ids in documents:
        table = log_probabilities(model, ids)
        nats += [-float(table[place - 1, ids[place]]) for place in range(1, len(ids))]
    return math.fsum(nats) / math.log(2) / sum(byte_counts)


def continuation_score(model: Any, context: Sequence[int], continuation: Sequence[int]) -> float:
    """ln p of the continuation's ids after the context's ids."""
    whole = [*context, *continuation]
    table = log_probabilities(model, whole)
    return math.fsum(float(table[place - 1, whole[place]]) for place in range(len(context), len(whole)))
