"""The maths of quality, on logits as numpy arrays: log-likelihood, divergence, agreement. float64 throughout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
_PIECE_BYTES = 16_000_000
_BYTES_PER_VALUE = 8


@dataclass(frozen=True)
class Score:
    """Sums over scored tokens: `nll` in nats; `kl` (teacher || row) in nats and `agreed` where a teacher was given."""

    tokens: int = 0
    nll: float = 0.0
    kl: float = 0.0
    agreed: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.tokens + other.tokens, self.nll + other.nll, self.kl + other.kl, self.agreed + other.agreed)


def log_softmax(logits: Logits) -> Float64s:
    """Return float64 log-probabilities in nats of logits [..., V]."""
    shifted = logits.astype(np.float64)
    # Infinite logits of a broken model give NaN, which the caller reports.
    with np.errstate(invalid="ignore"):
        shifted -= shifted.max(-1, keepdims=True)
        shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def token_log_probabilities(logits: Logits, targets: Ids) -> Float64s:
    """Return log p(target) in nats, float64 [N], of logits [N, V] and targets [N].

    Memory: pieces of at most about 16 MB in float64.
    """
    found = [
        np.take_along_axis(log_softmax(logits[part]), targets[part, None], -1)[:, 0] for part in _pieces(logits.shape)
    ]
    return np.concatenate(found) if found else np.zeros(0)


def score(logits: Logits, targets: Ids, teacher: Logits | None = None) -> Score:
    """Return the sums over tokens of logits [N, V] for targets [N]; teacher logits [N, V] are of the same tokens.

    kl is the sum over tokens of Σ_v p_teacher(v) (ln p_teacher(v) − ln p_row(v)); it is exactly 0 for equal logits.
    Agreement compares the most probable token, the first of equals.

    Memory: pieces of at most about 16 MB in float64.
    """
    total = Score()
    for part in _pieces(logits.shape):
        row = log_softmax(logits[part])
        kl, agreed = 0.0, 0
        nll = -float(np.take_along_axis(row, targets[part, None], -1).sum())
        if teacher is not None:
            reference = log_softmax(teacher[part])
            np.subtract(reference, row, out=row)
            kl = float((np.exp(reference, out=reference) * row).sum())
            agreed = int((logits[part].argmax(-1) == teacher[part].argmax(-1)).sum())
        total += Score(len(logits[part]), nll, kl, agreed)
    return total


def _pieces(shape: tuple[int, ...]) -> list[slice]:
    size = max(1, _PIECE_BYTES // (shape[1] * _BYTES_PER_VALUE))
    return [slice(start, start + size) for start in range(0, shape[0], size)]
