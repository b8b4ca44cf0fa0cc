"""Losses between the next-token distributions of teacher and student. Sums over rows, in nats; tensors only.

A row is one counted token: the caller takes uncounted and padded ones out before the logits, so that nothing of them can
become NaN. Every loss takes logits [n, V] of student and teacher, p is the teacher's distribution and q the student's, both
at the temperature; it is multiplied by temperature squared, which keeps gradients comparable when the temperature changes
(Hinton et al., arXiv 1503.02531 §2), and computed in float32 (float64 where the logits are that).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional


def forward_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the sum of KL(p || q): the student must reach everything that the teacher may say.

    Shapes: [n, V] both. Range: >= 0; 0 where both give the same distribution.
    Paper: Hinton et al., arXiv 1503.02531 §2.
    """
    log_q, log_p = _log_chances(student, temperature), _log_chances(teacher, temperature)
    return _divergence(log_p, log_q) * temperature**2


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the sum of KL(q || p): the student must not say what the teacher would not.

    Shapes: [n, V] both. Range: >= 0.
    Paper: MiniLLM, arXiv 2306.08543 §2.1; token by token on given text, where MiniLLM samples whole answers from the
    student and follows a policy gradient.
    """
    log_q, log_p = _log_chances(student, temperature), _log_chances(teacher, temperature)
    return _divergence(log_q, log_p) * temperature**2


def jensen_shannon(student: Tensor, teacher: Tensor, temperature: float = 1.0, beta: float = 0.5) -> Tensor:
    """Return the sum of beta KL(p || m) + (1 - beta) KL(q || m), where m = beta p + (1 - beta) q.

    Divided by beta it tends to KL(p || q) as beta goes to 0, and divided by 1 - beta to KL(q || p) as beta goes to 1; at
    either end itself it is 0.

    Shapes: [n, V] both. Range: 0 to -beta ln(beta) - (1 - beta) ln(1 - beta), at most ln 2, times n and temperature squared.
    Raises: ValueError where beta is not between 0 and 1.
    Paper: GKD, arXiv 2306.13649 §2, generalized Jensen-Shannon divergence.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta must lie between 0 and 1, got {beta}; its ends are forward_kl (0) and reverse_kl (1)")
    log_q, log_p = _log_chances(student, temperature), _log_chances(teacher, temperature)
    log_m = _log_mixture(log_p, log_q, beta)
    return (beta * _divergence(log_p, log_m) + (1 - beta) * _divergence(log_q, log_m)) * temperature**2


def skewed_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, skew: float = 0.1) -> Tensor:
    """Return the sum of KL(p || skew p + (1 - skew) q): forward_kl at skew 0, bounded by -ln(skew) above it.

    Shapes: [n, V] both. Range: 0 to -ln(skew), times n and temperature squared.
    Raises: ValueError where skew is not at least 0 and below 1.
    Paper: DistiLLM, arXiv 2402.03898 §3.1, α-SKL with its α = 0.1.
    """
    log_q, log_p = _log_chances(student, temperature), _log_chances(teacher, temperature)
    return _divergence(log_p, _skewed(log_p, log_q, skew)) * temperature**2


def skewed_reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, skew: float = 0.1) -> Tensor:
    """Return the sum of KL(q || skew q + (1 - skew) p): reverse_kl at skew 0, bounded by -ln(skew) above it.

    Shapes: [n, V] both. Range: 0 to -ln(skew), times n and temperature squared.
    Raises: ValueError where skew is not at least 0 and below 1.
    Paper: DistiLLM, arXiv 2402.03898 §3.1, α-SRKL with its α = 0.1.
    """
    log_q, log_p = _log_chances(student, temperature), _log_chances(teacher, temperature)
    return _divergence(log_q, _skewed(log_q, log_p, skew)) * temperature**2


def stored_kl(student: Tensor, ids: Tensor, log_chances: Tensor, weights: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the sum of weights_j (ln p_j - ln q_j) over tokens j of a store: an unbiased estimate of forward_kl.

    The teacher's likeliest tokens stand there with their chance as weight, and tokens drawn from the rest with a share of
    the rest's mass each; a place that is not used has weight 0. Chances and weights are the teacher's at the temperature.

    Shapes: student logits [n, V], the others [n, m]. Range: one row can be below 0, the expectation is not.
    Memory: one more [n, V] for the gradient.
    """
    rows = _scaled(student, temperature)
    log_q = rows.gather(-1, ids) - rows.logsumexp(-1, keepdim=True)
    return (weights.to(rows.dtype) * (log_chances.to(rows.dtype) - log_q)).sum() * temperature**2


def gather_chances(logits: Tensor, to: Tensor, size: int, temperature: float = 1.0) -> Tensor:
    """Return logits over `size` tokens, each with the chances, at a temperature, of all tokens that go to it.

    Shapes: logits [n, V], to [V] ids below `size`, -1 for tokens left out; result [n, size].
    Numerics: a token to which nothing goes gets the smallest chance that the format has.
    Memory: one more [n, V].
    """
    scaled = _scaled(logits, temperature)
    chances = (scaled - scaled.amax(-1, keepdim=True)).exp()
    places = torch.where(to < 0, size, to)
    gathered = chances.new_zeros(*chances.shape[:-1], size + 1).index_add_(-1, places, chances)[..., :size]
    return gathered.clamp_min(torch.finfo(gathered.dtype).tiny).log() * temperature


def mix(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the sum of the terms, each times its weight; a weight may stand for a term that another part of a loss gives.

    Raises KeyError for a term without a weight.
    """
    return torch.stack([term * weights[name] for name, term in terms.items()]).sum()


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    rows = logits if logits.dtype == torch.float64 else logits.float()
    return rows if temperature == 1.0 else rows / temperature


def _log_chances(logits: Tensor, temperature: float) -> Tensor:
    return functional.log_softmax(_scaled(logits, temperature), dim=-1)


def _divergence(log_first: Tensor, log_second: Tensor) -> Tensor:
    """Return KL(first || second), summed over rows."""
    return (log_first.exp() * (log_first - log_second)).sum()


def _log_mixture(log_first: Tensor, log_second: Tensor, share: float) -> Tensor:
    return torch.logaddexp(log_first + math.log(share), log_second + math.log1p(-share))


def _skewed(log_first: Tensor, log_second: Tensor, skew: float) -> Tensor:
    if not 0 <= skew < 1:
        raise ValueError(f"skew must be at least 0 and below 1, got {skew}")
    return _log_mixture(log_first, log_second, skew) if skew else log_second
