"""Scores from weights, gradients and losses: equal to slow ones over the very weights that a cut takes away, on every layout."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from compress.contract import silent
from compress.models.families import family_of, shape_of
from compress.prune import structures
from compress.prune.cut import Cut, Kept
from compress.prune.structures import chance, leave_one_out, magnitude, sum_by_structure, taylor
from tests.references import pruning as slow
from tests.references.masked import Float64
from tests.references.tiny_families import CONFIGS, COUPLED, DECODERS, tiny_model

# One family for every way in which heads and columns lie in the weights.
LAYOUTS = ("llama", "phi3", "gpt2", "gpt_neox", "qwen3", "opt", "bert", "roberta")
IDS = torch.randint(3, 64, (10, 8), generator=torch.Generator().manual_seed(5))


@functools.cache
def _model(family: str, tied: bool = True) -> Any:
    return tiny_model(family, tied)


def _all_but(size: int, *gone: int) -> list[int]:
    return [index for index in range(size) if index not in gone]


def _without(model: Any, **gone: list[int]) -> dict[str, Tensor]:
    """Return the weights that go with layers, with ffn columns of layer 1 (the last columns elsewhere), or with heads and channels."""
    shape = shape_of(model.config.to_dict())
    parts: dict[str, Any] = {}
    for axis in ("layers", "hidden"):
        if axis in gone:
            parts[axis] = _all_but(getattr(shape, axis), *gone[axis])
    if "heads" in gone:
        heads = gone["heads"]
        parts["heads"] = [_all_but(shape.heads, *heads)] * shape.layers
        groups = [g for g in range(shape.kv_heads) if all(g * shape.group + h in heads for h in range(shape.group))]
        parts["kv_heads"] = [_all_but(shape.kv_heads, *groups)] * shape.layers
    if "ffn" in gone:
        parts["ffn"] = [_all_but(shape.ffn, *gone["ffn"])] * shape.layers
    return slow.removed_weights(model, Kept(**parts))


def _in_layer(removed: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    return {name: gone for name, gone in removed.items() if f".{layer}." in name}


def _head(model: Any, head: int) -> dict[str, Tensor]:
    """Return the weights of one head that has its own key/value head: what goes with it whichever channels go along."""
    return slow.common(*(_without(model, heads=[head], hidden=list(range(8 * i, 8 * i + 8))) for i in range(3)))


def _channel(model: Any, channel: int) -> dict[str, Tensor]:
    """Return the weights of one channel: what goes with it whichever heads and other channels go along.

    Three sets of channels that share this one alone: a weight from channel to channel is in all three only if it is its own.
    """
    others = _all_but(32, channel)
    size, coupled = (7, True) if model.config.model_type in COUPLED else (3, False)
    sets = [[channel, *others[size * i : size * i + size]] for i in range(3)]
    extra = [{"heads": [i]} if coupled else {} for i in range(3)]
    return slow.common(*(_without(model, hidden=chosen, **more) for chosen, more in zip(sets, extra, strict=True)))


def _squares(model: Any) -> Any:
    return lambda name: model.get_parameter(name).detach().square()


@pytest.mark.parametrize("family", LAYOUTS)
def test_magnitude_is_the_norm_of_the_very_weights_that_a_cut_takes_away(family):
    model = _model(family)
    found, squares = magnitude(model), _squares(model)
    layer = slow.sum_removed(_without(model, layers=[2]), squares)
    assert float(found.layers[2]) == pytest.approx(math.sqrt(layer), rel=1e-12)
    columns = _without(model, ffn=[17])
    for index in range(4):
        column = slow.sum_removed(_in_layer(columns, index), squares)
        assert float(found.ffn[index, 17]) == pytest.approx(math.sqrt(column), rel=1e-12)
    channel = slow.sum_removed(_channel(model, 5), squares)
    assert float(found.hidden[5]) == pytest.approx(math.sqrt(channel), rel=1e-12)


@pytest.mark.parametrize("family", [family for family in LAYOUTS if family in COUPLED])
def test_a_head_with_a_key_value_head_of_its_own_has_the_norm_of_what_goes_with_it(family):
    model = _model(family)
    found, removed = magnitude(model), _head(model, 2)
    for index in range(4):
        head = slow.sum_removed(_in_layer(removed, index), _squares(model))
        assert float(found.heads[index, 2]) == pytest.approx(math.sqrt(head), rel=1e-12)


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3"])
def test_the_heads_of_a_group_add_up_to_what_goes_with_the_group(family):
    model = _model(family)
    found, squares = magnitude(model).heads.square(), _squares(model)
    group, one, other = (_without(model, heads=heads) for heads in ([2, 3], [0, 2], [1, 3]))
    for index in range(4):
        whole = slow.sum_removed(_in_layer(group, index), squares)
        assert float(found[index, 2:].sum()) == pytest.approx(whole, rel=1e-12)
        # Where one head of each group goes, key/value heads stay: their even share is all that is not removed.
        difference = slow.sum_removed(_in_layer(one, index), squares) - slow.sum_removed(
            _in_layer(other, index), squares
        )
        assert float(found[index, [0, 2]].sum() - found[index, [1, 3]].sum()) == pytest.approx(difference, rel=1e-9)


def test_a_shared_weight_counts_once_and_an_untied_head_is_a_channel_s_too():
    tied, untied = _model("llama"), _model("llama", False)
    more = magnitude(untied).hidden.square() - untied.lm_head.weight.detach().square().sum(0)
    without = sum_by_structure(
        untied.config.to_dict(), lambda name: _squares(untied)(name) * (name != "lm_head.weight")
    )
    assert torch.allclose(more, without.hidden, rtol=1e-12)
    embedding = tied.model.embed_tokens.weight.detach().square().sum(0)
    without = sum_by_structure(tied.config.to_dict(), lambda name: _squares(tied)(name) * ("embed" not in name))
    assert torch.allclose(magnitude(tied).hidden.square() - embedding, without.hidden, rtol=1e-12)


@pytest.mark.parametrize("family", CONFIGS)
def test_ones_count_the_weights_of_every_part(family):
    model = _model(family)
    counts = sum_by_structure(model.config.to_dict(), lambda name: torch.ones_like(model.get_parameter(name)))
    whole = sum(each.numel() for layer in _layers(model) for each in layer.parameters())
    assert float(counts.layers.sum()) == whole
    for axis, parts in (("ffn", 48), ("heads", 4)):
        assert getattr(counts, axis).shape == (4, parts)
        assert len(getattr(counts, axis).unique()) == 1
    assert counts.hidden.shape == (32,)
    assert len(counts.hidden.unique()) == 1


def _layers(model: Any) -> Any:
    return structures.layers_of(model, family_of(model.config.to_dict()))


def _loss(model: Any, ids: Tensor) -> float:
    return math.log(slow.perplexity(model, ids))


def _slope(model: Any, removed: dict[str, Tensor], ids: Tensor) -> float:
    """Return how much the loss changes, per unit, as some weights are scaled down: a central difference."""
    losses, step = [], 1e-5
    for sign in (1, -1):
        scaled = copy.deepcopy(model)
        with torch.no_grad():
            for name, gone in removed.items():
                scaled.get_parameter(name)[gone] *= 1 + sign * step
        losses.append(_loss(scaled, ids))
    return (losses[0] - losses[1]) / (2 * step)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "gpt_neox"])
def test_taylor_is_the_slope_of_the_loss_as_a_part_fades(family):
    model, ids = copy.deepcopy(_model(family)), IDS[:1]
    with Float64():
        found = taylor(model, ids, silent)
    cases = [
        (found.layers[1], _without(model, layers=[1])),
        (found.ffn[3, 17], _in_layer(_without(model, ffn=[17]), 3)),
        (found.hidden[5], _channel(model, 5)),
    ]
    if family in COUPLED:
        cases.append((found.heads[0, 2], _in_layer(_head(model, 2), 0)))
    for score, removed in cases:
        with Float64():
            slope = _slope(model, removed, ids)
        assert float(score) == pytest.approx(abs(slope), rel=1e-5, abs=1e-7)


def test_taylor_equals_the_reference_over_windows():
    model = copy.deepcopy(_model("llama"))
    found, column = taylor(model, IDS, silent), _in_layer(_without(model, ffn=[17]), 3)
    squares = []
    for batch in IDS.split(1):
        chances = model(input_ids=batch).logits[:, :-1].double().log_softmax(-1)
        loss = -chances.gather(-1, batch[:, 1:, None]).mean()
        named = dict(model.named_parameters())
        gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
        changes = {name: gradients[name] * weight.detach() for name, weight in named.items()}
        squares.append(slow.sum_removed(column, changes.__getitem__) ** 2)
    assert float(found.ffn[3, 17]) == pytest.approx(math.sqrt(math.fsum(squares) / len(IDS)), rel=1e-5)


def test_taylor_leaves_no_gradient_and_weights_as_they_were():
    model = copy.deepcopy(_model("gpt_neo"))
    before = copy.deepcopy(model.state_dict())
    said: list[tuple[float, float, str]] = []
    with torch.no_grad():
        taylor(model, IDS, lambda done, total, unit="", note="": said.append((done, total, unit)))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert said == [(done, len(IDS), "windows") for done in range(1, len(IDS) + 1)]


def test_taylor_of_a_part_that_is_zero_is_zero():
    model = copy.deepcopy(_model("llama"))
    with torch.no_grad():
        mlp = model.model.layers[2].mlp
        mlp.gate_proj.weight[7] = mlp.up_proj.weight[7] = 0
        mlp.gate_proj.bias[7] = mlp.up_proj.bias[7] = 0
        mlp.down_proj.weight[:, 7] = 0
    found = taylor(model, IDS, silent).ffn
    assert float(found[2, 7]) == 0
    assert (found[2] > 0).sum() == 47


@pytest.mark.parametrize("family", DECODERS)
def test_leaving_a_layer_out_is_the_perplexity_of_the_model_without_it(family):
    model = _model(family)
    found = leave_one_out(model, family_of(model.config.to_dict()), IDS, silent)
    assert found.shape == (4,)
    for layer in (0, 3):
        cut = Cut(copy.deepcopy(model), Kept(layers=_all_but(4, layer))).run()
        assert float(found[layer]) == pytest.approx(slow.perplexity(cut, IDS), rel=1e-5)


def test_leaving_out_leaves_the_model_as_it_was():
    model = _model("llama")
    with torch.no_grad():
        before = model(IDS).logits
        said: list[tuple[float, float, str]] = []
        leave_one_out(
            model,
            family_of(model.config.to_dict()),
            IDS[:1],
            lambda done, total, unit="", note="": said.append((done, total, unit)),
        )
        assert torch.equal(model(IDS).logits, before)
    assert said == [(layer, 4, "layers") for layer in (1, 2, 3, 4)]


def test_chance_is_seeded_and_differs_by_axis_and_part():
    shape = shape_of(_model("llama").config.to_dict())
    one, same, other = chance(shape, 0), chance(shape, 0), chance(shape, 1)
    axes = ("layers", "ffn", "heads", "hidden")
    assert all(torch.equal(getattr(one, axis), getattr(same, axis)) for axis in axes)
    assert not any(torch.equal(getattr(one, axis), getattr(other, axis)) for axis in axes)
    values = torch.cat([getattr(one, axis).flatten() for axis in axes])
    assert len(values.unique()) == len(values) == 4 + 4 * 48 + 4 * 4 + 32
    assert 0 <= float(values.min()) < 0.05 < 0.95 < float(values.max()) < 1
