"""torch-pruning's dependency graph against the family table and the surgery, where both apply."""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch_pruning
from torch import nn

from compress.models.family_table import FAMILIES
from compress.prune.cut import Cut, Kept
from compress.prune.graph import prove_group
from tests.references.tiny_families import COUPLED, DECODERS, tiny_model

TRACED = [name for name, family in FAMILIES.items() if family.ffn and name not in ("phi3", "gpt2")]
HIDDEN, FFN = [1, 5, 6, 13, 20, 21, 30, 31], [0, 7, 40]
Touched = dict[tuple[str, int], list[int]]


def _layer(family: str, **changes: Any) -> Any:
    model = tiny_model(family, **changes)
    return model.get_submodule(FAMILIES[family].base).get_submodule(FAMILIES[family].layers)[0]


@pytest.mark.parametrize("family", TRACED)
def test_the_graph_finds_what_the_table_says(family):
    layer = _layer(family)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    layer.eval()
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    prove_group(layer, FAMILIES[family])
    assert not any(module.training for module in layer.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in layer.parameters())
    assert not any(module._forward_hooks for module in layer.modules())
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("family", ["phi3", "gpt2", "opt", "bert", "roberta"])
def test_where_it_does_not_apply_the_graph_is_not_built(family, monkeypatch):
    monkeypatch.setattr(torch_pruning, "DependencyGraph", lambda: pytest.fail("the graph was built"))
    prove_group(_layer(family), FAMILIES[family])
    with pytest.raises(pytest.fail.Exception, match="the graph was built"):
        prove_group(_layer("llama"), FAMILIES["llama"])


def test_a_table_that_misses_a_projection_is_noticed():
    wrong = replace(FAMILIES["llama"], ffn_in=("mlp.gate_proj",))
    with pytest.raises(ValueError, match=r".") as caught:
        prove_group(_layer("llama"), wrong)
    assert str(caught.value) == (
        "the dependency graph of LlamaMLP finds mlp.down_proj (in), mlp.gate_proj (out), mlp.up_proj (out), the family table "
        "of llama says mlp.down_proj (in), mlp.gate_proj (out)"
    )


def test_a_projection_that_the_model_does_not_use_is_noticed():
    layer = _layer("llama")
    layer.mlp.extra_proj = nn.Linear(32, 48, dtype=torch.float64)
    wrong = replace(FAMILIES["llama"], ffn_in=("mlp.gate_proj", "mlp.up_proj", "mlp.extra_proj"))
    with pytest.raises(ValueError, match=r"says mlp\.down_proj \(in\), mlp\.extra_proj \(out\), mlp\.gate_proj"):
        prove_group(layer, wrong)


def _by_graph(model: Any, family: str, roots: list[tuple[str, list[int]]]) -> Touched:
    """What torch-pruning would remove with output channels of these modules: indices by parameter and dimension."""
    ids = torch.arange(3, 9)[None]
    example = {"input_ids": ids, "use_cache": False} if family in DECODERS else {"input_ids": ids}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unwrapped parameters detected")
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)
    modules = {id(module): name for name, module in model.named_modules()}
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[tuple[str, int], set[int]] = defaultdict(set)
    for path, removed in roots:
        group = graph.get_pruning_group(model.get_submodule(path), torch_pruning.prune_linear_out_channels, removed)
        for dependency, indices in group:
            module, outgoing = dependency.target.module, "out" in dependency.handler.__name__
            if id(module) in parameters:
                found[parameters[id(module)], 0] |= set(indices)
            elif id(module) in modules:
                dimension = int(outgoing == isinstance(module, nn.Embedding))
                name = modules[id(module)]
                found[f"{name}.weight", dimension] |= set(indices)
                if outgoing and getattr(module, "bias", None) is not None:
                    found[f"{name}.bias", 0] |= set(indices)
    return {place: sorted(indices) for place, indices in found.items()}


def _by_cut(model: Any, kept: Kept) -> Touched:
    """What the surgery removes, read from weights that hold their own places."""
    sizes = {name: parameter.shape for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.arange(parameter.numel()).view(parameter.shape))
    touched: Touched = {}
    for name, parameter in Cut(model, kept).run().named_parameters():
        places = torch.unravel_index(parameter.detach().long(), sizes[name])
        for dimension, (place, size) in enumerate(zip(places, sizes[name], strict=True)):
            removed = sorted(set(range(size)) - set(place.unique().tolist()))
            if removed:
                touched[name, dimension] = removed
    return touched


def _without(removed: list[int], size: int) -> list[int]:
    return [index for index in range(size) if index not in removed]


def _model(family: str) -> Any:
    """An untied model of two layers, in which every query head has a key/value head of its own."""
    changes: dict[str, Any] = {
        "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
        "distilbert": {"n_layers": 2},
        "qwen2": {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
    }.get(family, {"num_hidden_layers": 2})
    if family not in COUPLED:
        changes["num_key_value_heads"] = 4
    return tiny_model(family, False, **changes)


def _paths(family: str, row: str) -> list[str]:
    facts = FAMILIES[family]
    return [f"{facts.base}.{facts.layers}.{index}.{row}" for index in range(2)]


FAMILIES_OF_BOTH = ["llama", "mistral", "qwen2", "smollm3", "opt", "gpt_neo", "bert", "distilbert", "roberta"]


@pytest.mark.parametrize("family", FAMILIES_OF_BOTH)
def test_both_cut_the_same_feed_forward_columns(family):
    model = _model(family)
    expected = _by_graph(model, family, [(path, FFN) for path in _paths(family, FAMILIES[family].ffn_in[0])])
    assert _by_cut(model, Kept(ffn=[_without(FFN, 48)] * 2)) == expected
    assert len(expected) >= 2 * (len(FAMILIES[family].ffn_in) + 1)


def _queries(family: str) -> str:
    return next(row.path for row in FAMILIES[family].layer if row.axes[0] == "q")


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "smollm3"])
def test_both_cut_the_same_heads_where_they_have_a_width_of_their_own(family):
    model = _model(family)
    columns = list(range(8, 24))
    expected = _by_graph(model, family, [(path, columns) for path in _paths(family, _queries(family))])
    heads = [_without([1, 2], 4)] * 2
    assert _by_cut(model, Kept(heads=heads, kv_heads=heads)) == expected
    assert {name.rpartition(".")[0].rpartition(".")[2] for name, _ in expected} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    }


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "smollm3"])
def test_both_cut_the_same_channels(family):
    model = _model(family)
    expected = _by_graph(model, family, [(_paths(family, FAMILIES[family].attention_out)[0], HIDDEN)])
    assert _by_cut(model, Kept(hidden=_without(HIDDEN, 32))) == expected


@pytest.mark.parametrize("family", ["opt", "gpt_neo", "bert", "distilbert", "roberta"])
def test_both_cut_the_same_where_heads_and_channels_go_together(family):
    model = _model(family)
    columns = list(range(8, 16))
    roots = [(_paths(family, FAMILIES[family].attention_out)[0], HIDDEN)]
    roots += [(path, columns) for path in _paths(family, _queries(family))]
    # The head's own layer is a width of its own to the graph, and the hidden width to the config.
    dense = {"bert": "cls.predictions.transform.dense", "distilbert": "vocab_transform", "roberta": "lm_head.dense"}
    roots += [(dense[family], HIDDEN)] if family in dense else []
    expected = _by_graph(model, family, roots)
    heads = [_without([1], 4)] * 2
    assert _by_cut(model, Kept(heads=heads, kv_heads=heads, hidden=_without(HIDDEN, 32))) == expected


class _Grouped(nn.Module):
    """Attention of 4 query heads of 8 over 2 key/value heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(32, width) for width in (32, 16, 16, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (*x.shape[:2], -1, 8)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        return self.o(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


def test_behind_repeated_key_value_heads_the_graph_is_wrong_and_says_it_is_right():
    attention = _Grouped()
    graph = torch_pruning.DependencyGraph().build_dependency(attention, example_inputs=torch.randn(1, 6, 32))

    def group(layer: nn.Module, head: int) -> dict[str, list[int]]:
        removed = list(range(8 * head, 8 * head + 8))
        found = graph.get_pruning_group(layer, torch_pruning.prune_linear_out_channels, removed)
        assert graph.check_pruning_group(found)
        names = {id(each): name for name, each in attention.named_children()}
        return {names[id(each.target.module)]: list(at) for each, at in found if id(each.target.module) in names}

    # Without a value head its two query heads and their columns of o would have to go: they stay.
    assert group(attention.v, 0) == {"v": list(range(8))}
    # Query head 1 takes key/value head 0 along, which query head 0 still reads.
    first, second = list(range(8)), list(range(8, 16))
    assert group(attention.q, 1) == {"q": second, "o": second, "k": first, "v": first}
