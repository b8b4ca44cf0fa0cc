from __future__ import annotations

import copy

import pytest
import torch

from compress.models.families import FAMILIES, family_of, shape_of
from compress.prune.cut import cut_by_graph, cut_by_slicing, cut_ffn, cut_layers
from tests.references.tiny_families import tiny_model

IDS = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(1))
FAMILY_NAMES = sorted(FAMILIES)


def _columns(layers: int, kept: int, width: int = 48) -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [sorted(torch.randperm(width, generator=generator)[:kept].tolist()) for _ in range(layers)]


def _masked_logits(model, kept_layers, kept_columns):
    """The uncut model with layers bypassed and feed-forward columns zeroed."""
    masked = copy.deepcopy(model)
    family = family_of(model.config.to_dict())
    layers = masked.get_submodule(family.paths.layers)
    for index, layer in enumerate(layers):
        if index not in kept_layers:
            layer.register_forward_hook(
                lambda _m, args, kwargs, _o: args[0] if args else kwargs["hidden_states"], with_kwargs=True
            )
    for index, columns in zip(kept_layers, kept_columns, strict=True):
        outgoing = layers[index].get_submodule(family.paths.ffn).get_submodule(family.paths.ffn_out)
        zeroed = [column for column in range(outgoing.weight.shape[1]) if column not in columns]
        outgoing.weight.data[:, zeroed] = 0
    return masked(IDS, use_cache=False).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_a_cut_model_equals_the_masked_model(name, tied):
    model = tiny_model(name, tied)
    kept_layers, columns = [0, 2, 3], _columns(3, 31)
    expected = _masked_logits(model, kept_layers, columns)
    uncut = model(IDS, use_cache=False).logits
    cut_layers(model, kept_layers)
    cut_ffn(model, columns)
    found = model(IDS, use_cache=False).logits
    assert (found - expected).abs().max() < 1e-8
    assert (found - uncut).abs().max() > 1e-3
    shape = shape_of(model.config.to_dict())
    assert (shape.layers, shape.ffn) == (3, 31)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_the_cache_works_after_layers_were_cut(name):
    model = tiny_model(name)
    cut_layers(model, [1, 3])
    whole = model(IDS, use_cache=False).logits
    started = model(IDS[:, :5], use_cache=True)
    cache, pieces = started.past_key_values, [started.logits]
    for position in range(5, IDS.shape[1]):
        step = model(IDS[:, position : position + 1], past_key_values=cache, use_cache=True)
        pieces.append(step.logits)
    assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-8
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1]


@pytest.mark.parametrize("name", ["gemma3_text", "qwen2", "smollm3"])
def test_lists_with_an_entry_per_layer_follow_the_layers(name):
    model = tiny_model(name)
    kinds = list(model.config.layer_types)
    cut_layers(model, [1, 3])
    assert model.config.layer_types == [kinds[1], kinds[3]]
    if name == "smollm3":
        assert model.config.no_rope_layers == [0, 0]


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if not FAMILIES[name].paths.ffn_fused])
def test_the_dependency_graph_and_slicing_cut_the_same(name):
    family = FAMILIES[name]
    graph = tiny_model(name).model.layers[0].mlp
    sliced = copy.deepcopy(graph)
    columns = _columns(1, 20)[0]
    cut_by_graph(graph, family, [column for column in range(48) if column not in columns], 32)
    cut_by_slicing(sliced, family, columns)
    found, expected = graph.state_dict(), sliced.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert [each.out_features for each in (graph.gate_proj, graph.up_proj)] == [20, 20]
    assert graph.down_proj.in_features == sliced.down_proj.in_features == 20


def test_a_table_that_misses_a_projection_is_noticed():
    ffn = tiny_model("llama").model.layers[0].mlp
    ffn.extra = torch.nn.Linear(4, 4)
    paths = FAMILIES["llama"].paths.__class__(ffn_in=("gate_proj", "up_proj", "extra"))
    wrong = FAMILIES["llama"].__class__("llama", paths=paths)
    with pytest.raises(ValueError, match="the dependency graph of LlamaMLP misses a projection of family llama"):
        cut_by_graph(ffn, wrong, [0], 32)


@torch.no_grad()
def test_one_column_and_one_layer_are_enough():
    model = tiny_model("llama")
    cut_layers(model, [2])
    cut_ffn(model, [[5]])
    assert torch.isfinite(model(IDS).logits).all()
    assert model.model.layers[0].mlp.down_proj.weight.shape == (32, 1)


@torch.no_grad()
def test_keeping_everything_changes_nothing():
    model = tiny_model("llama")
    expected = model(IDS).logits
    cut_layers(model, range(4))
    cut_ffn(model, [list(range(48))] * 4)
    assert torch.equal(model(IDS).logits, expected)


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"needs 4 lists of columns, all of one length, got 2 of lengths \[1, 2\]"):
        cut_ffn(tiny_model("llama"), [[1], [1, 2]])
