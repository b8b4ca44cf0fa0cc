"""Which score ranks which axis, and which parts stay by it."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from typing import Any

import pytest
import torch

from compress.contract import silent
from compress.models.families import shape_of
from compress.prune import ranking
from compress.prune.cut import Cut
from compress.prune.options import Scores
from compress.prune.ranking import axes_cut, choose, finite, rank
from compress.prune.structures import chance, magnitude
from tests.references.tiny_families import CONFIGS, COUPLED, tiny_model

IDS = torch.randint(3, 64, (4, 8), generator=torch.Generator().manual_seed(5))
SIZES = {"layers": (4,), "ffn": (4, 48), "heads": (4, 4), "hidden": (32,)}


@functools.cache
def _model(family: str = "llama") -> Any:
    return tiny_model(family, dtype=torch.float32)


def _rank(axes: set[str], family: str = "llama", seed: int = 0, **scores: str) -> dict[str, torch.Tensor]:
    return rank(_model(family), axes, Scores.model_validate(scores), IDS, seed, silent)


def test_axes_that_are_smaller_are_cut():
    shape = shape_of(_model().config.to_dict())
    assert axes_cut(shape, shape) == set()
    assert axes_cut(shape, replace(shape, vocabulary=10)) == set()
    assert axes_cut(shape, replace(shape, heads=2, kv_heads=1)) == {"heads"}
    assert axes_cut(shape, replace(shape, layers=1, ffn=1, heads=1, hidden=1)) == {"layers", "ffn", "heads", "hidden"}


@pytest.mark.parametrize("name", ["activation", "magnitude", "taylor", "random"])
def test_every_score_ranks_every_axis_it_is_asked_for(name):
    layers = "block_influence" if name == "activation" else name
    found = _rank(set(SIZES), layers=layers, ffn=name, heads=name, hidden=name)
    assert {axis: tuple(scores.shape) for axis, scores in found.items()} == SIZES
    assert {scores.dtype for scores in found.values()} == {torch.float64}
    assert finite(found)


def test_only_what_is_cut_is_scored(monkeypatch):
    asked: list[str] = []
    for name in ("magnitude", "taylor", "chance", "leave_one_out", "ActivationScores"):
        own = getattr(ranking, name)
        monkeypatch.setattr(ranking, name, lambda *args, own=own, name=name: (asked.append(name), own(*args))[1])
    assert set(_rank({"ffn"}, layers="taylor", heads="magnitude", hidden="random")) == {"ffn"}
    assert asked == ["ActivationScores"]
    asked.clear()
    mixed = _rank(set(SIZES), layers="perplexity", ffn="magnitude", heads="magnitude", hidden="random")
    assert asked == ["magnitude", "chance", "leave_one_out"]
    assert torch.equal(mixed["ffn"], magnitude(_model()).ffn)
    assert torch.equal(mixed["hidden"], chance(shape_of(_model().config.to_dict()), 0).hidden)
    assert _rank(set()) == {}


def test_random_follows_the_seed_and_the_others_do_not():
    assert not torch.equal(_rank({"ffn"}, ffn="random")["ffn"], _rank({"ffn"}, seed=1, ffn="random")["ffn"])
    assert torch.equal(_rank({"ffn"}, ffn="random")["ffn"], _rank({"ffn"}, ffn="random")["ffn"])
    for name in ("activation", "taylor"):
        assert torch.equal(_rank({"ffn"}, ffn=name)["ffn"], _rank({"ffn"}, seed=1, ffn=name)["ffn"])


def test_the_highest_stay_and_each_layer_chooses_for_itself():
    shape = shape_of(_model().config.to_dict())
    scores = {
        "layers": torch.tensor([3.0, 1.0, 2.0, 4.0]),
        "ffn": torch.arange(48.0).repeat(4, 1).where(torch.arange(4)[:, None] < 3, -torch.arange(48.0)),
        "heads": torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, 1], [2, 1, 1, 2], [1, 2, 4, 3]]),
        "hidden": torch.arange(32.0),
    }
    kept = choose(scores, shape, replace(shape, layers=3, ffn=2, heads=2, hidden=4))
    assert kept.layers == [0, 2, 3]
    assert kept.ffn == [[46, 47], [46, 47], [0, 1]]
    assert kept.heads == [[1, 3], [0, 3], [1, 2]]
    assert kept.kv_heads == [[0, 1]] * 3
    assert kept.hidden == [28, 29, 30, 31]
    assert kept.vocab is None
    whole = choose({"heads": scores["heads"]}, shape, replace(shape, heads=2, kv_heads=1))
    assert whole.heads == [[2, 3], [0, 1], [0, 1], [2, 3]]
    assert whole.kv_heads == [[1], [0], [0], [1]]
    assert (whole.layers, whole.ffn, whole.hidden) == (None, None, None)


@pytest.mark.parametrize("family", CONFIGS)
def test_what_is_chosen_can_be_cut_to_the_very_sizes(family):
    model = _model(family)
    shape = shape_of(model.config.to_dict())
    heads = (
        {"heads": 2, "kv_heads": 2, "hidden": 16} if family in COUPLED else {"heads": 1, "kv_heads": 1, "hidden": 20}
    )
    after = replace(shape, layers=2, ffn=20, **heads)
    kept = choose(_rank(set(SIZES), family), shape, after)
    cut = Cut(copy.deepcopy(model), kept).run()
    assert shape_of(cut.config.to_dict()) == after
    with torch.no_grad():
        assert torch.isfinite(cut(input_ids=IDS)[0]).all()


def test_scores_that_are_no_numbers_are_noticed():
    assert finite({"ffn": torch.zeros(2)})
    assert not finite({"ffn": torch.zeros(2), "layers": torch.tensor([0.0, torch.nan])})
    assert not finite({"ffn": torch.tensor([torch.inf])})
