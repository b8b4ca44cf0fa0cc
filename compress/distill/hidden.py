"""Losses between hidden states of teacher and student, and which layers they compare. Sums over rows; tensors only.

A row is the hidden state of one counted token behind one layer. Layers count from 0, as in the names of their weights: the
state behind layer i is hidden_states[i + 1] of transformers (the last one stands behind the final norm).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def hidden_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the sum over rows of the mean squared difference, divided by the mean square of the teacher's row.

    So one weight does for every model and layer, whose states differ in size a hundredfold, and a row with a few huge
    channels counts like any other. It is the error's share of the state: 1 for a student that gives zeros, and
    2 hidden_cosine where both rows have one length.

    Shapes: [n, D] both. Range: >= 0; 0 where they are equal. Numerics: float32, or float64 where both are.
    Paper: TinyBERT, arXiv 1909.10351 eq. 8 (there not divided).
    """
    own, wanted = _precise(student), _precise(teacher)
    size = wanted.square().mean(-1).clamp_min(torch.finfo(wanted.dtype).tiny)
    return ((own - wanted).square().mean(-1) / size).sum()


def hidden_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the sum over rows of 1 - cos(student, teacher).

    Shapes: [n, D] both. Range: 0 to 2 a row; 1 where one of them is all zeros. Numerics: float32, or float64 where both are.
    Paper: DistilBERT, arXiv 1910.01108 §2, which compares the last layer alone.
    """
    return (1 - functional.cosine_similarity(_precise(student), _precise(teacher), dim=-1)).sum()


def projection(student: int, teacher: int, kept: Sequence[bool] | None = None, seed: int = 0) -> nn.Linear:
    """Return the map from the student's width to the teacher's, to be learned with the student: no bias.

    It starts where the student's channels are the teacher's: at the identity for one width, at the channels that the
    student kept where `kept` (of the teacher's channels) tells them; else at random with a variance of 1 / student.

    Paper: TinyBERT, arXiv 1909.10351 eq. 8.
    """
    layer = nn.Linear(student, teacher, bias=False)
    channels = _positions(kept, student, teacher)
    with torch.no_grad():
        if channels is None:
            drawn = torch.randn(teacher, student, generator=torch.Generator().manual_seed(seed))
            layer.weight.copy_(drawn / student**0.5)
        else:
            layer.weight.zero_()
            layer.weight[channels, torch.arange(student)] = 1.0
    return layer


def layer_map(
    student: int,
    teacher: int,
    given: Sequence[tuple[int, int]] | None = None,
    kept: Sequence[bool] | None = None,
) -> list[tuple[int, int]]:
    """Return which layers are compared, as pairs (student's, teacher's) from the first to the last.

    Without `given` every layer of the shallower model has a partner, and the last stands to the last: the teacher's layers
    are shared out evenly (3 of 12 are compared to 3, 7 and 11); where `kept` (of the teacher's layers) tells which of them
    the student kept, each of these is compared to the layer before the next kept one, so that it learns what the layers cut
    out behind it did. A `kept` that does not fit the two depths is of another model than the teacher, and is not used.

    Raises ValueError for pairs that are no layers of these models, that are given twice, and for none.
    Paper: TinyBERT, arXiv 1909.10351 §3, its uniform map.
    """
    if given is not None:
        return _checked(given, student, teacher)
    places = _positions(kept, student, teacher)
    if places is not None:
        ends = [*places[1:], teacher]
        return [(own, end - 1) for own, end in enumerate(ends)]
    fewer = min(student, teacher)
    return [((index * student) // fewer - 1, (index * teacher) // fewer - 1) for index in range(1, fewer + 1)]


def _checked(given: Sequence[tuple[int, int]], student: int, teacher: int) -> list[tuple[int, int]]:
    if not given:
        raise ValueError("layers has no pair; give at least one, such as [[0, 0]], or leave it out")
    for own, other in given:
        for layer, layers, name in ((own, student, "student"), (other, teacher, "teacher")):
            if not 0 <= layer < layers:
                raise ValueError(
                    f"layers has the pair [{own}, {other}], but the {name} has {layers} layers; give one of 0 to {layers - 1}"
                )
    pairs = sorted((own, other) for own, other in given)
    for pair, following in pairwise(pairs):
        if pair == following:
            raise ValueError(f"layers has the pair [{pair[0]}, {pair[1]}] more than once; give it once")
    return pairs


def _positions(kept: Sequence[bool] | None, student: int, teacher: int) -> list[int] | None:
    """Return where the student's parts stand in the teacher; None where `kept` does not say."""
    if kept is None:
        return list(range(teacher)) if student == teacher else None
    places = [place for place, stays in enumerate(kept) if stays]
    return places if (len(places), len(kept)) == (student, teacher) else _positions(None, student, teacher)


def _precise(rows: Tensor) -> Tensor:
    return rows if rows.dtype == torch.float64 else rows.float()
