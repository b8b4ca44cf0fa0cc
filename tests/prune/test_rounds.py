"""Cutting in steps: every step is a model that transformers builds, the last one is what was asked for, and the tally adds up."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from compress.models.families import Shape, cut_config, family_of, shape_of
from compress.models.skeleton import prove_shapes
from compress.prune.axes import fits, left_of
from compress.prune.cut import Cut, Kept
from compress.prune.options import Removal
from compress.prune.ranking import axes_cut, choose
from compress.prune.rounds import Tally, sizes_of_rounds
from tests.references.tiny_families import CONFIGS, COUPLED, tiny_config, tiny_model

AXES = ("layers", "ffn", "heads", "kv_heads", "hidden", "vocabulary")
WIDE: dict[str, dict[str, Any]] = {
    "groups": {"model_type": "llama", "num_attention_heads": 16, "num_key_value_heads": 4},
    "one group": {"model_type": "llama", "num_attention_heads": 16, "num_key_value_heads": 1},
    "own heads": {"model_type": "llama", "num_attention_heads": 16},
    "free width": {"model_type": "mistral", "num_attention_heads": 16, "num_key_value_heads": 8},
    "measured": {
        "model_type": "phi3",
        "num_attention_heads": 16,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0] * 6,
            "long_factor": [1.0] * 6,
        },
    },
    "coupled": {"model_type": "gpt_neox", "num_attention_heads": 16},
}
SIZES = {"hidden_size": 192, "intermediate_size": 200, "num_hidden_layers": 6, "vocab_size": 64}
REMOVED: list[dict[str, Any]] = [
    {"layers": 2, "ffn": 0.5},
    {"heads": 0.5},
    {"heads": 0.75},
    {"hidden": 0.5},
    {"heads": 0.5, "hidden": 0.5},
    {"layers": 5, "ffn": 199, "heads": 0.75, "hidden": 0.75, "vocab": 0.5},
]


def _plain(family: str) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(tiny_config(family).to_json_string())
    return written


def _after(config: dict[str, Any], remove: dict[str, Any]) -> Shape | None:
    try:
        return left_of(Removal.model_validate(remove), family_of(config), shape_of(config), config)
    except ValueError:
        return None


def _check(config: dict[str, Any], after: Shape, rounds: int) -> list[Shape]:
    before = shape_of(config)
    steps = sizes_of_rounds(before, after, rounds, config)
    assert len(steps) == rounds
    assert steps[-1] == after
    for earlier, later in zip([before, *steps], steps, strict=False):
        assert all(getattr(later, axis) <= getattr(earlier, axis) for axis in AXES)
        assert later.kv_heads <= earlier.kv_heads
        assert later.heads % later.kv_heads == 0
        assert later.group <= earlier.group
    return steps


@pytest.mark.parametrize("rounds", [1, 2, 3, 8])
@pytest.mark.parametrize("kind", WIDE)
def test_every_step_is_legal_and_no_axis_grows(kind, rounds):
    config = {**SIZES, **WIDE[kind]}
    tried = [after for remove in REMOVED if (after := _after(config, remove)) is not None]
    assert len(tried) >= 2
    for after in tried:
        for step in _check(config, after, rounds):
            assert fits(family_of(config), config, step) or step == after


@pytest.mark.parametrize("family", CONFIGS)
def test_transformers_builds_every_step(family):
    config = _plain(family)
    heads = {"heads": 0.75} if family in COUPLED else {"heads": 2, "hidden": 16}
    after = _after(config, {"layers": 2, "ffn": 0.5, "vocab": 0.5, **heads})
    assert after is not None
    for step in _check(config, after, 3):
        prove_shapes(cut_config(config, replace(step, vocabulary=64)))


def test_steps_are_equal_and_tokens_go_last():
    config = {**SIZES, **WIDE["free width"]}
    after = _after(config, {"layers": 3, "ffn": 30, "hidden": 99, "heads": 8, "vocab": 10})
    assert after is not None
    steps = _check(config, after, 3)
    assert [(step.layers, step.ffn, step.hidden, step.heads) for step in steps] == [
        (5, 190, 159, 16),
        (4, 180, 126, 16),
        (3, 170, 93, 8),
    ]
    assert [step.vocabulary for step in steps] == [64, 64, 54]


def test_groups_go_one_after_the_other_and_never_with_single_heads_before():
    config = {**SIZES, **WIDE["groups"]}
    after = _after(config, {"heads": {"kv_groups": 3}})
    assert after is not None
    steps = _check(config, after, 3)
    # 12 of 16 heads divide the width of 192, and so do 8 and 4.
    assert [(step.heads, step.kv_heads) for step in steps] == [(12, 3), (8, 2), (4, 1)]
    both = replace(after, heads=2, kv_heads=2)
    assert [(step.heads, step.kv_heads) for step in _check(config, both, 4)] == [(12, 3), (12, 3), (8, 2), (2, 2)]
    # Not (4, 1) last but one: two groups stay.
    assert [(step.heads, step.kv_heads) for step in _check(config, both, 8)][-2:] == [(8, 2), (2, 2)]


def test_heads_wait_where_the_family_takes_no_width_between():
    config = {**SIZES, **WIDE["own heads"]}
    after = _after(config, {"heads": 8})
    assert after is not None
    # Of 16 down to 8 only 16, 12 and 8 divide 192.
    assert [step.heads for step in _check(config, after, 8)] == [16, 16, 16, 12, 12, 12, 12, 8]
    # 14 heads and a width of 176 are not the class's 12 channels for each head; 13 and 160, rounded down, are.
    long = {**SIZES, **WIDE["measured"]}
    pair = _after(long, {"heads": 4, "hidden": 48})
    assert pair is not None
    assert [(step.heads, step.hidden) for step in _check(long, pair, 3)] == [(16, 192), (13, 160), (12, 144)]


def test_one_round_is_the_plain_cut():
    config = _plain("llama")
    after = _after(config, {"layers": 1, "heads": 2})
    assert after is not None
    assert sizes_of_rounds(shape_of(config), after, 1, config) == [after]


def test_more_rounds_than_parts_leave_some_rounds_nothing_to_do():
    config = _plain("qwen2")
    after = _after(config, {"layers": 1})
    assert after is not None
    assert [step.layers for step in _check(config, after, 5)] == [4, 4, 3, 3, 3]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_tally_is_the_composition_of_the_cuts(family):
    """What the tally says is kept, cut at once, is the model that the rounds leave."""
    model = tiny_model(family)
    first = shape_of(model.config.to_dict())
    heads = (
        {"heads": 2, "kv_heads": 2, "hidden": 16} if family in COUPLED else {"heads": 2, "kv_heads": 1, "hidden": 20}
    )
    after = replace(first, layers=2, ffn=18, vocabulary=40, **heads)
    tally, left = Tally(first), copy.deepcopy(model)
    generator = torch.Generator().manual_seed(4)
    kv_heads = [list(range(first.kv_heads)) for _ in range(first.layers)]
    for sizes in sizes_of_rounds(first, after, 3, model.config.to_dict()):
        now = shape_of(left.config.to_dict())
        shapes = {"layers": (now.layers,), "ffn": (now.layers, now.ffn), "heads": (now.layers, now.heads)}
        shapes |= {"hidden": (now.hidden,)}
        ranking = {
            axis: torch.rand(shapes[axis], generator=generator, dtype=torch.float64)
            for axis in sorted(axes_cut(now, sizes))
        }
        kept = choose(ranking, now, sizes)
        if sizes.vocabulary < now.vocabulary:
            kept = replace(kept, vocab=[*range(30), *range(50, 60)])
        tally.add(ranking, kept)
        layers = range(now.layers) if kept.layers is None else kept.layers
        kv_heads = [kv_heads[layer] for layer in layers]
        if kept.kv_heads is not None:
            kv_heads = [[own[index] for index in chosen] for own, chosen in zip(kv_heads, kept.kv_heads, strict=True)]
        left = Cut(left, kept).run()
    assert shape_of(left.config.to_dict()) == after
    at_once = Cut(model, Kept(tally.layers, tally.ffn, tally.heads, kv_heads, tally.hidden, tally.vocab)).run()
    found, expected = left.state_dict(), at_once.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert tally.kept("layers").nonzero().flatten().tolist() == tally.layers
    assert tally.kept("ffn").sum(1).tolist() == [18 if layer in tally.layers else 0 for layer in range(4)]
    assert (tally.kept("heads").sum(), tally.kept("hidden").sum(), tally.kept("vocab").sum()) == (4, after.hidden, 40)


def test_the_last_score_of_each_part_stands():
    shape = shape_of({**SIZES, **WIDE["groups"], "num_hidden_layers": 3, "intermediate_size": 4, "hidden_size": 16})
    tally = Tally(shape)
    tally.add({"ffn": torch.arange(12.0).double().view(3, 4)}, Kept(ffn=[[1, 2, 3], [0, 1, 3], [0, 2, 3]]))
    tally.add({"layers": torch.tensor([5.0, 6.0, 7.0]).double()}, Kept(layers=[0, 2]))
    tally.add({"ffn": torch.tensor([[21.0, 22.0, 23.0], [24.0, 25.0, 26.0]]).double()}, Kept(ffn=[[0, 2], [1, 2]]))
    assert tally.scores["ffn"].tolist() == [[0, 21, 22, 23], [4, 5, 6, 7], [24, 9, 25, 26]]
    assert tally.scores["layers"].tolist() == [5, 6, 7]
    assert tally.ffn == [[1, 3], [2, 3]]
    assert tally.kept("ffn").int().tolist() == [[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]]
    assert set(tally.scores) == {"ffn", "layers"}
    assert tally.scores["ffn"].dtype == torch.float64


def test_layers_that_went_before_have_no_score():
    shape = shape_of({**SIZES, **WIDE["groups"], "num_hidden_layers": 2, "intermediate_size": 2, "hidden_size": 16})
    tally = Tally(shape)
    tally.add({"layers": torch.tensor([1.0, 2.0]).double()}, Kept(layers=[1]))
    tally.add({"ffn": torch.tensor([[3.0, 4.0]]).double()}, Kept(ffn=[[1]]))
    assert torch.isnan(tally.scores["ffn"][0]).all()
    assert tally.scores["ffn"][1].tolist() == [3, 4]
