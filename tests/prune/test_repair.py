"""Least-squares repair on every family: nothing to mend stays as it was, and what was cut is mended."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from compress.contract import silent
from compress.models.families import family_of, shape_of
from compress.models.family import Family
from compress.prune import repair, streams
from compress.prune.activation import layers_of, run_base
from compress.prune.cut import Cut, Kept
from compress.prune.gauss_newton import FeedForward
from compress.prune.options import Scores
from compress.prune.ranking import axes_cut, choose, rank
from compress.prune.repair import Repair
from compress.prune.streams import Trace, batch_size
from tests.references import pruning as slow
from tests.references.tiny_families import CONFIGS, COUPLED, GROUPED, tiny_model

IDS = torch.randint(3, 64, (16, 16), generator=torch.Generator().manual_seed(1))
WAYS = {"least_squares": False, "gauss_newton": True}


@functools.cache
def _model(family: str, **changes: Any) -> Any:
    return tiny_model(family, dtype=torch.float32, **changes)


def _family(model: Any) -> Family:
    return family_of(model.config.to_dict())


def _stream(model: Any, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        found: Tensor = run_base(model, _family(model), ids)[0]
    return found


def _cut(model: Any, kept: Kept) -> Any:
    return Cut(copy.deepcopy(model), kept).run()


def _repaired(model: Any, kept: Kept, way: str, ids: Tensor = IDS) -> Any:
    return Repair(Cut(copy.deepcopy(model), kept), ids, ids, WAYS[way]).run(silent)


def _chosen(model: Any, **sizes: int) -> Kept:
    before = shape_of(model.config.to_dict())
    after = replace(before, **sizes)
    return choose(rank(model, axes_cut(before, after), Scores(), IDS, 0, silent), before, after)


def _error(model: Any, uncut: Tensor, kept: Kept, ids: Tensor = IDS) -> float:
    wanted = uncut if kept.hidden is None else uncut[..., kept.hidden]
    return float((_stream(model, ids) - wanted).square().mean() / wanted.square().mean())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", CONFIGS)
def test_with_nothing_cut_the_model_stays_what_it_was(family, way):
    model = _model(family)
    uncut, repaired = _stream(model), _repaired(model, Kept(), way)
    difference = (_stream(repaired) - uncut).norm() / uncut.norm()
    assert difference < 1e-5
    assert repaired.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("axis", ["ffn", "heads", "hidden", "layers", "everything"])
@pytest.mark.parametrize("family", CONFIGS)
def test_what_was_cut_is_mended(family, axis):
    model = _model(family)
    heads = {"heads": 3, "kv_heads": 3, "hidden": 24} if family in COUPLED else {"heads": 2}
    sizes = {"ffn": {"ffn": 36}, "heads": heads, "hidden": {"hidden": 28}, "everything": {**heads, "ffn": 40}}
    if axis == "hidden" and family in COUPLED:
        pytest.skip("heads and hidden width go together: that is the axis heads")
    kept = Kept(layers=[0, 2, 3]) if axis == "layers" else _chosen(model, **sizes[axis])
    uncut = _stream(model)
    errors = [_error(_cut(model, kept), uncut, kept), *(_error(_repaired(model, kept, way), uncut, kept) for way in WAYS)]
    assert errors[1] < 0.9 * errors[0]
    assert errors[2] < errors[1]


@pytest.mark.parametrize("family", CONFIGS)
def test_through_the_activation_the_layer_comes_closer(family):
    model = _model(family)
    kept, facts = _chosen(model, ffn=30), _family(model)
    errors = []
    for way in WAYS:
        errors.append(_layer_error(model, _repaired(model, kept, way), facts))
    assert errors[1] < errors[0]


def _layer_error(model: Any, cut: Any, facts: Family) -> float:
    """Return what the first layer's stream misses; where a norm of its own stands behind the feed-forward, what that output misses."""
    path = facts.ffn_out if facts.residual == "norm" else ""
    found: list[Tensor] = []
    for each in (model, cut):
        module = layers_of(each, facts)[0].get_submodule(path)
        handle = module.register_forward_hook(lambda _m, _a, out: found.append(out if torch.is_tensor(out) else out[0]))
        _stream(each)
        handle.remove()
    return float((found[0] - found[1]).square().sum())


@pytest.mark.parametrize("family", CONFIGS)
def test_the_matrices_of_a_feed_forward_do_what_its_module_does(family, monkeypatch):
    """Activation, order of gate and up, biases and the target of the step are those of the real module."""
    model = _model(family)
    facts, seen = _family(model), []

    def spy(ffn: FeedForward, x: Tensor, target: Tensor, held_out: int) -> FeedForward:
        seen.append((ffn.columns(x), ffn.columns(x) @ ffn.output.T, target, held_out))
        return ffn

    monkeypatch.setattr(repair, "refined", spy)
    _repaired(model, Kept(), "gauss_newton")
    entering: list[Tensor] = []
    for layer in layers_of(model, facts):
        out = layer.get_submodule(facts.ffn_out)
        handle = out.register_forward_pre_hook(lambda _m, args: entering.append(args[0].flatten(0, -2)))
        _stream(model)
        handle.remove()
    assert len(seen) == len(entering) == 4
    for (columns, output, target, held_out), real in zip(seen, entering, strict=True):
        assert torch.allclose(columns, real, rtol=1e-3, atol=1e-4 * float(real.abs().max()))
        assert torch.allclose(output, target, atol=1e-4 * float(target.abs().max()))
        assert held_out == 16 * 16 // 8


@pytest.mark.parametrize(("family", "key", "name"), [("llama", "hidden_act", "relu"), ("gpt2", "activation_function", "silu")])
def test_the_activation_is_the_one_that_the_config_names(family, key, name):
    model = _model(family, **{key: name})
    kept = _chosen(model, ffn=30)
    errors = [_layer_error(model, _repaired(model, kept, way), _family(model)) for way in WAYS]
    assert errors[1] < errors[0]


def test_an_output_projection_is_the_ridge_solution():
    """The first layer of a cut feed-forward restated: what it reads, what it should give, one dense system."""
    model = _model("llama")
    kept = _chosen(model, ffn=30)
    found: dict[str, Tensor] = {}
    mended = _repaired(model, kept, "least_squares")
    layer, uncut = mended.model.layers[0], model.model.layers[0]

    def see(name: str, module: Any, entering: bool) -> Any:
        if entering:
            return module.register_forward_pre_hook(lambda _m, args: found.update({name: args[0].flatten(0, -2)}))
        return module.register_forward_hook(lambda _m, _a, out: found.update({name: out.flatten(0, -2)}))

    handles = [
        see("columns", layer.mlp.down_proj, True),
        see("given", layer.mlp.down_proj, False),
        see("after", layer, False),
        see("wanted", uncut, False),
    ]
    _stream(mended)
    _stream(model)
    for handle in handles:
        handle.remove()
    target = found["wanted"] - (found["after"] - found["given"])
    down = uncut.mlp.down_proj
    start = torch.cat([down.weight[:, kept.ffn[0]], down.bias[:, None]], 1).detach()
    rows = torch.cat([found["columns"], torch.ones(len(target), 1)], 1)
    expected = slow.ridge(rows.double(), target.double(), start.double(), repair.RIDGE)
    mine = torch.cat([layer.mlp.down_proj.weight, layer.mlp.down_proj.bias[:, None]], 1).detach()
    assert torch.allclose(mine.double(), expected, atol=1e-4)
    assert not torch.allclose(mine, start, atol=1e-2)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "bert"])
@pytest.mark.parametrize("layers", [[1, 2, 3], [0, 1, 2], [3], [0]])
def test_the_first_and_the_last_layers_may_go(family, layers):
    model, kept = _model(family), Kept(layers=layers)
    uncut = _stream(model)
    errors = [_error(_cut(model, kept), uncut, kept), *(_error(_repaired(model, kept, way), uncut, kept) for way in WAYS)]
    if layers[0] == 0 and _family(model).residual != "after":
        # What is left computes what it did; behind its norm no projection can stand in for layers that follow.
        assert errors[1:] == pytest.approx([errors[0]] * 2, rel=1e-4)
    else:
        assert max(errors[1:]) < errors[0]


@pytest.mark.parametrize("windows", [1, 7, 11])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_any_number_of_windows_will_do(family, windows):
    model, ids = _model(family), IDS[:windows]
    kept = _chosen(model, ffn=36)
    uncut = _stream(model, ids)
    errors = [
        _error(_cut(model, kept), uncut, kept, ids),
        *(_error(_repaired(model, kept, way, ids), uncut, kept, ids) for way in WAYS),
    ]
    assert max(errors[1:]) < errors[0]
    assert errors[1] != errors[2]


def test_batches_divide_the_windows():
    assert [batch_size(count) for count in (1, 2, 7, 8, 11, 12, 16, 20, 128)] == [1, 2, 7, 8, 1, 6, 8, 5, 8]


def test_batches_change_nothing_but_the_last_digits(monkeypatch):
    model = _model("mistral")
    kept = _chosen(model, ffn=36)
    streams_of = []
    for batch in (8, 2):
        monkeypatch.setattr(streams, "BATCH", batch)
        streams_of.append(_stream(_repaired(model, kept, "least_squares")))
    assert torch.allclose(streams_of[0], streams_of[1], atol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_twice(way):
    model = _model("qwen3")
    kept = _chosen(model, layers=3, ffn=36, heads=2, hidden=28)
    one, two = (_repaired(model, kept, way).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_is_not_fitted_is_what_the_cut_leaves():
    """Embeddings, norms, head and everything else but the projections of the layers."""
    model = _model("qwen3")
    kept = _chosen(model, layers=3, hidden=28)
    cut, mended = _cut(model, kept).state_dict(), _repaired(model, kept, "gauss_newton").state_dict()
    assert cut.keys() == mended.keys()
    changed = {name for name in cut if not torch.equal(cut[name], mended[name])}
    assert changed == {name for name in cut if "_proj." in name}


def test_ties_and_attributes_are_kept():
    model = _model("gpt2")
    mended = _repaired(model, _chosen(model, ffn=36), "gauss_newton")
    assert mended.transformer.wte.weight is mended.lm_head.weight
    assert all(parameter.is_contiguous() and parameter.dtype == torch.float32 for parameter in mended.parameters())
    assert type(mended.transformer.h[0].mlp.c_fc) is type(model.transformer.h[0].mlp.c_fc)
    assert not mended.training


def test_layers_are_counted_and_the_uncut_ones_let_go():
    said: list[tuple[float, float, str]] = []
    model = copy.deepcopy(_model("llama"))
    cut = Cut(model, Kept(layers=[1, 2]))
    Repair(cut, IDS, IDS, False).run(lambda done, total, unit="", note="": said.append((done, total, unit)))
    assert said == [(2, 4, "layers"), (4, 4, "layers")]
    assert [type(layer) for layer in model.model.layers] == [torch.nn.Identity] * 4


def test_a_cut_vocabulary_reads_the_same_text_by_its_own_ids():
    model = _model("llama")
    kept = replace(_chosen(model, ffn=36), vocab=list(range(50)))
    ids = IDS % 50
    uncut = _stream(model, ids)
    mended = Repair(Cut(copy.deepcopy(model), kept), ids, ids, True).run(silent)
    assert _error(mended, uncut, kept, ids) < _error(_cut(model, kept), uncut, kept, ids)
    shifted = replace(kept, vocab=[0, 1, 2, *range(10, 64)])
    renumbered = torch.where(IDS < 10, 1, IDS)
    own = torch.searchsorted(torch.tensor(shifted.vocab), renumbered)
    mended = Repair(Cut(copy.deepcopy(model), shifted), renumbered, own, True).run(silent)
    before = float((_stream(_cut(model, shifted), own) - _stream(model, renumbered)).square().sum())
    assert float((_stream(mended, own) - _stream(model, renumbered)).square().sum()) < before


@pytest.mark.parametrize("family", CONFIGS)
def test_layers_run_alone_as_they_run_in_the_model(family):
    model = _model(family)
    facts, ids = _family(model), IDS[:6]
    calls, found = streams.layer_calls(model, facts, ids), streams.first_streams(model, facts, ids)
    assert [len(batch) for batch in found] == [6]
    for layer, call in zip(layers_of(model, facts), calls, strict=True):
        assert "past_key_values" not in call[1]
        found = [streams.forward(layer, stream, call) for stream in found]
    layer = layers_of(model, facts)[-1]
    last: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _m, _a, out: last.append(out if torch.is_tensor(out) else out[0]))
    _stream(model, ids)
    handle.remove()
    assert torch.allclose(torch.cat(found), last[0], atol=1e-5)


def test_a_trace_sees_and_ends_where_it_is_told():
    model = _model("llama")
    facts = _family(model)
    call, stream = streams.layer_calls(model, facts, IDS)[1], streams.first_streams(model, facts, IDS)[0]
    layer = layers_of(model, facts)[1]
    trace = Trace(layer, stream, call, ["mlp.gate_proj"], ["self_attn.o_proj"])
    assert set(trace.given) == {"mlp.gate_proj"}
    assert set(trace.gave) == {"self_attn.o_proj"}
    assert torch.equal(trace.after, streams.forward(layer, stream, call))
    ended = Trace(layer, stream, call, gave=["self_attn.o_proj", "mlp.down_proj"], until="mlp.down_proj")
    assert ended.after is None
    assert set(ended.given) == {"mlp.down_proj"}
    assert set(ended.gave) == {"self_attn.o_proj"}
    assert list(_hooks(model)) == []


def _hooks(model: Any) -> Iterator[Any]:
    for module in model.modules():
        yield from (*module._forward_hooks.values(), *module._forward_pre_hooks.values())


@pytest.mark.parametrize("family", GROUPED)
def test_whole_groups_are_mended_too(family):
    model = _model(family)
    kept = _chosen(model, heads=2, kv_heads=1)
    uncut = _stream(model)
    assert _error(_repaired(model, kept, "least_squares"), uncut, kept) < _error(_cut(model, kept), uncut, kept)
