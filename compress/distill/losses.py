"""Losses between teacher and student. Sums over counted tokens, in nats; tensors only."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def forward_kl(student: Tensor, teacher: Tensor, counted: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the sum over counted tokens of KL(teacher || student) at a temperature, times temperature squared.

    Shapes: student and teacher logits [B, T, V], counted [B, T] bool.
    Range: >= 0; 0 where both give the same distribution.
    Numerics: float32; uncounted rows are taken out before the softmax, so that nothing in them can become NaN.
    Paper: Hinton et al., arXiv 1503.02531 §2 (the factor keeps gradients comparable when the temperature changes).
    """
    student_rows = student[counted].float() / temperature
    teacher_rows = teacher[counted].float() / temperature
    log_student = functional.log_softmax(student_rows, dim=-1)
    log_teacher = functional.log_softmax(teacher_rows, dim=-1)
    return functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True) * temperature**2


def mix(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Return the weighted sum of loss terms; each name in `weights` must be in `terms`."""
    return torch.stack([terms[name] * weight for name, weight in weights.items()]).sum()
