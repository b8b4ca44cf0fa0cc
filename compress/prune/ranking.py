"""Scores as the options ask for them, and which parts stay by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compress.contract import Progress
from compress.models.families import Shape, family_of, shape_of
from compress.prune.activation import ActivationScores
from compress.prune.cut import Kept
from compress.prune.options import Scores
from compress.prune.scores import keep_heads, keep_highest
from compress.prune.structures import Structures, chance, leave_one_out, magnitude, taylor

Ranking = dict[str, Tensor]


def axes_cut(before: Shape, after: Shape) -> set[str]:
    """Return the axes that are smaller afterwards; vocabulary aside, which is ranked by how often text uses a token."""
    return {axis for axis in ("layers", "ffn", "heads", "hidden") if getattr(after, axis) < getattr(before, axis)}


def rank(model: Any, axes: set[str], scores: Scores, ids: Tensor, seed: int, progress: Progress) -> Ranking:
    """Return the scores of the given axes; what is wanted by several is taken once.

    Shapes: ids [N, T] -> layers [L], ffn [L, F], heads [L, H], hidden [D], float64.
    """
    config = model.config.to_dict()
    family, names = family_of(config), {axis: getattr(scores, axis) for axis in sorted(axes)}
    asked = set(names.values())
    found: dict[str, Structures] = {}
    if "magnitude" in asked:
        found["magnitude"] = magnitude(model)
    if "taylor" in asked:
        found["taylor"] = taylor(model, ids, progress)
    if "random" in asked:
        found["random"] = chance(shape_of(config), seed)
    ranking = {axis: getattr(found[name], axis) for axis, name in names.items() if name in found}
    if "perplexity" in asked:
        ranking["layers"] = leave_one_out(model, family, ids, progress)
    seen = {axis for axis, name in names.items() if name in ("activation", "block_influence")}
    if seen:
        activations = ActivationScores(model, family, seen)
        activations.run(ids, progress)
        read: dict[str, Callable[[], Tensor]] = {
            "layers": activations.layers,
            "ffn": activations.ffn,
            "heads": activations.heads,
            "hidden": activations.hidden,
        }
        ranking |= {axis: read[axis]() for axis in sorted(seen)}
    return ranking


def choose(ranking: Ranking, before: Shape, after: Shape) -> Kept:
    """Return which parts stay: of every axis those with the highest scores.

    In every layer that stays equally many columns and heads stay, each layer its own ones.
    """
    layers = keep_highest(ranking["layers"], after.layers) if "layers" in ranking else None
    kept = range(before.layers) if layers is None else layers
    ffn = [keep_highest(ranking["ffn"][layer], after.ffn) for layer in kept] if "ffn" in ranking else None
    heads = kv_heads = None
    if "heads" in ranking:
        pairs = [keep_heads(ranking["heads"][layer], before.kv_heads, after.heads, after.kv_heads) for layer in kept]
        heads, kv_heads = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    hidden = keep_highest(ranking["hidden"], after.hidden) if "hidden" in ranking else None
    return Kept(layers, ffn, heads, kv_heads, hidden)


def finite(ranking: Ranking) -> bool:
    """Say whether every score is a number."""
    return all(bool(torch.isfinite(each).all()) for each in ranking.values())
