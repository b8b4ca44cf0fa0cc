"""Losses of training, restated slowly in float64 with numpy, token by token."""

from __future__ import annotations

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def slow_cross_entropy(logits: np.ndarray, targets: np.ndarray, uncounted: int) -> float:
    """Sum of -ln p(target); logits [B, T, V], targets [B, T]."""
    total = 0.0
    for row, wanted in zip(logits, targets, strict=True):
        for scores, target in zip(row, wanted, strict=True):
            if target != uncounted:
                total -= log_softmax(scores)[target]
    return total


def slow_forward_kl(student: np.ndarray, teacher: np.ndarray, counted: np.ndarray, temperature: float) -> float:
    """Sum of p_teacher (ln p_teacher - ln p_student) at a temperature, times its square; logits [B, T, V]."""
    total = 0.0
    for own, other, keep in zip(student, teacher, counted, strict=True):
        for scores, wanted, kept in zip(own, other, keep, strict=True):
            if kept:
                log_p, log_q = log_softmax(wanted / temperature), log_softmax(scores / temperature)
                total += float((np.exp(log_p) * (log_p - log_q)).sum())
    return total * temperature**2
