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


def gather_chances(logits: Tensor, to: Tensor, size: int, temperature: float = 1.0) -> Tensor:
    """Return logits over `size` tokens, each with the chances, at a temperature, of all tokens that go to it.

    Shapes: logits [B, T, V], to [V] ids below `size`, -1 for tokens left out; result [B, T, size].
    Numerics: float32; a token to which nothing goes gets the smallest chance that float32 has.
    Memory: one more [B, T, V].
    """
    scaled = logits.float() / temperature
    chances = (scaled - scaled.amax(-1, keepdim=True)).exp()
    places = torch.where(to < 0, size, to)
    gathered = chances.new_zeros(*chances.shape[:-1], size + 1).index_add_(-1, places, chances)[..., :size]
    return gathered.clamp_min(torch.finfo(gathered.dtype).tiny).log() * temperature


def mix(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Return the weighted sum of loss terms; each name in `weights` must be in `terms`."""
    return torch.stack([terms[name] * weight for name, weight in weights.items()]).sum()
