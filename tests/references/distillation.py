"""The losses of distillation, restated slowly in float64 with numpy, row by row, from the papers' formulas."""

from __future__ import annotations

import numpy as np

from tests.references.training import log_softmax


def chances(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    return np.exp(log_softmax(np.asarray(logits, np.float64) / temperature))


def kl(first: np.ndarray, second: np.ndarray) -> float:
    """Sum over the vocabulary of first ln(first / second); two distributions [V]."""
    return float(sum(a * (np.log(a) - np.log(b)) for a, b in zip(first, second, strict=True) if a > 0))


def slow_rows(student: np.ndarray, teacher: np.ndarray, temperature: float, divergence) -> float:
    """Sum over rows of divergence(p, q), p the teacher's distribution, times temperature squared."""
    rows = zip(teacher, student, strict=True)
    return sum(divergence(chances(p, temperature), chances(q, temperature)) for p, q in rows) * temperature**2


def slow_forward_kl(student, teacher, temperature):
    """Hinton et al., 1503.02531 §2."""
    return slow_rows(student, teacher, temperature, kl)


def slow_reverse_kl(student, teacher, temperature):
    """MiniLLM, 2306.08543 §2.1, one token."""
    return slow_rows(student, teacher, temperature, lambda p, q: kl(q, p))


def slow_jensen_shannon(student, teacher, temperature, beta):
    """GKD, 2306.13649 §2."""

    def divergence(p, q):
        middle = beta * p + (1 - beta) * q
        return beta * kl(p, middle) + (1 - beta) * kl(q, middle)

    return slow_rows(student, teacher, temperature, divergence)


def slow_skewed_kl(student, teacher, temperature, skew):
    """DistiLLM, 2402.03898 eq. 3: KL(p || skew p + (1 - skew) q)."""
    return slow_rows(student, teacher, temperature, lambda p, q: kl(p, skew * p + (1 - skew) * q))


def slow_skewed_reverse_kl(student, teacher, temperature, skew):
    """DistiLLM, 2402.03898 §3.1: KL(q || (1 - skew) p + skew q)."""
    return slow_rows(student, teacher, temperature, lambda p, q: kl(q, (1 - skew) * p + skew * q))


def slow_hidden_mse(student: np.ndarray, teacher: np.ndarray) -> float:
    """TinyBERT, 1909.10351 eq. 8, each row divided by the teacher's mean square."""
    total = 0.0
    for own, wanted in zip(student.astype(np.float64), teacher.astype(np.float64), strict=True):
        total += sum((a - b) ** 2 for a, b in zip(own, wanted, strict=True)) / sum(b**2 for b in wanted)
    return float(total)


def slow_hidden_cosine(student: np.ndarray, teacher: np.ndarray) -> float:
    """DistilBERT, 1910.01108 §2: 1 - cos of the angle between two states."""
    total = 0.0
    for own, wanted in zip(student.astype(np.float64), teacher.astype(np.float64), strict=True):
        total += 1 - float(own @ wanted) / float(np.sqrt(own @ own) * np.sqrt(wanted @ wanted))
    return total


def slow_attention_kl(student: np.ndarray, teacher: np.ndarray, counted: np.ndarray) -> float:
    """MiniLM, 2002.10957 §3.1; distributions [B, H, T, T], counted [B, T]; sum over rows, mean over heads."""
    total = 0.0
    for batch, row in zip(*np.nonzero(counted), strict=True):
        for head in range(student.shape[1]):
            total += kl(teacher[batch, head, row, : row + 1], student[batch, head, row, : row + 1])
    return total / student.shape[1]


def slow_value_relation(student, teacher, counted, heads: int, visible=None) -> float:
    """MiniLM, 2002.10957 §3.2 with the relation heads of 2012.15828 §3.1, causal; values [B, T, W]."""
    total = 0.0
    for batch, row in zip(*np.nonzero(counted), strict=True):
        keys = [key for key in range(row + 1) if visible is None or visible[batch, key] or key == row]
        for head in range(heads):
            both = []
            for values in (teacher, student):
                width = values.shape[-1] // heads
                own = values[batch, :, head * width : (head + 1) * width].astype(np.float64)
                both.append(chances(np.array([own[row] @ own[key] for key in keys]) / np.sqrt(width)))
            total += kl(*both)
    return total / heads
