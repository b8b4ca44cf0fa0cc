"""Cutting in steps: the sizes of each round, and what is kept of the first model after all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from compress.models.families import Shape, family_of
from compress.prune.axes import fits, legal_heads
from compress.prune.cut import Kept
from compress.prune.ranking import Ranking


def sizes_of_rounds(before: Shape, after: Shape, rounds: int, config: Mapping[str, Any]) -> list[Shape]:
    """Return the sizes after each round, in equal steps as far as the family takes them; the last are `after`.

    Heads and hidden width wait for a later round where the family takes no width between. Tokens all go in the last round:
    they are ranked by the text, not by the model.
    """
    steps = [before]
    for done in range(1, rounds):
        steps.append(_between(before, after, done / rounds, config, steps[-1]))
    return [*steps[1:], after]


def _between(before: Shape, after: Shape, share: float, config: Mapping[str, Any], last: Shape) -> Shape:
    def part(old: int, new: int) -> int:
        return old - round((old - new) * share)

    family = family_of(config)
    aimed = part(before.heads, after.heads)
    whole_groups = after.kv_heads < before.kv_heads
    ways = [(before.heads, before.kv_heads), (after.heads, after.kv_heads), *legal_heads(before)]
    heads, kv_heads = min(
        way
        for way in ways
        if way[0] >= aimed
        and (way[1] < before.kv_heads) == (whole_groups and way[0] < before.heads)
        # nothing that the end still needs goes on the way
        and way[1] >= after.kv_heads
        and way[0] // way[1] >= after.group
    )
    if family.coupled:
        hidden = heads * before.head_dim
    else:
        step = heads if family.whole_heads else 1
        hidden = min(last.hidden, -(-part(before.hidden, after.hidden) // step) * step)
    narrower = replace(last, heads=heads, kv_heads=kv_heads, hidden=hidden)
    taken = narrower if fits(family, config, narrower) else last
    return replace(taken, layers=part(before.layers, after.layers), ffn=part(before.ffn, after.ffn))


class Tally:
    """What is left of the first model after the rounds so far, and the last score of each of its parts.

    Shapes: layers [L], ffn [L, F], heads [L, H], hidden [D], vocab [V]; sizes of the first model.
    """

    def __init__(self, first: Shape) -> None:
        self.scores: dict[str, Tensor] = {}
        self._first = first
        self.layers = list(range(first.layers))
        self.hidden = list(range(first.hidden))
        self.vocab = list(range(first.vocabulary))
        self.ffn = [list(range(first.ffn)) for _ in self.layers]
        self.heads = [list(range(first.heads)) for _ in self.layers]

    def add(self, ranking: Ranking, kept: Kept) -> None:
        """Take in a round: the scores of the model that it began with, and what it kept of that."""
        for axis, scores in ranking.items():
            self._note(axis, scores)
        if kept.layers is not None:
            self.layers = [self.layers[index] for index in kept.layers]
            self.ffn = [self.ffn[index] for index in kept.layers]
            self.heads = [self.heads[index] for index in kept.layers]
        if kept.ffn is not None:
            self.ffn = [[left[index] for index in chosen] for left, chosen in zip(self.ffn, kept.ffn, strict=True)]
        if kept.heads is not None:
            self.heads = [
                [left[index] for index in chosen] for left, chosen in zip(self.heads, kept.heads, strict=True)
            ]
        if kept.hidden is not None:
            self.hidden = [self.hidden[index] for index in kept.hidden]
        if kept.vocab is not None:
            self.vocab = [self.vocab[index] for index in kept.vocab]

    def _note(self, axis: str, scores: Tensor) -> None:
        mine = self.scores.setdefault(axis, torch.full(self._shape(axis), torch.nan, dtype=torch.float64))
        left = getattr(self, axis)
        if axis in ("ffn", "heads"):
            for row, layer in enumerate(self.layers):
                mine[layer, left[row]] = scores[row]
        else:
            mine[left] = scores

    def _shape(self, axis: str) -> tuple[int, ...]:
        first = self._first
        sizes: dict[str, tuple[int, ...]] = {
            "layers": (first.layers,),
            "ffn": (first.layers, first.ffn),
            "heads": (first.layers, first.heads),
            "hidden": (first.hidden,),
            "vocab": (first.vocabulary,),
        }
        return sizes[axis]

    def kept(self, axis: str) -> Tensor:
        """Return which parts of an axis are left, as bools."""
        found = torch.zeros(self._shape(axis), dtype=torch.bool)
        left: Any = getattr(self, axis)
        if axis in ("ffn", "heads"):
            for row, layer in enumerate(self.layers):
                found[layer, left[row]] = True
        else:
            found[left] = True
        return found
