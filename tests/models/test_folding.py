"""Scales moved between projections and what makes their inputs leave what a model says as it was."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from compress.models.families import family_of
from compress.models.folding import ScalingGroup, fold, groups_of, tie
from compress.models.layers import layers_of, matrix, row_of
from tests.references.tiny_families import CONFIGS, DECODERS, ENCODERS, tiny_config, tiny_model

IDS = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(1))
GATED = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


@functools.cache
def groups(family: str, tied: bool = True, **changes: Any) -> list[ScalingGroup]:
    config = tiny_config(family, tied, **changes).to_dict()
    return groups_of(family_of(config), config)


def said(model: Any) -> Tensor:
    with torch.no_grad():
        output = model(input_ids=IDS)
    return output[0].double()


def in_float64(model: Any) -> Any:
    """Make Gemma's norms, which compute in float32 whatever they are given, compute as the model does."""
    for module in model.modules():
        if type(module).__name__ in ("Gemma2RMSNorm", "Gemma3RMSNorm"):
            module.forward = functools.partial(lambda norm, x: norm._norm(x) * (1 + norm.weight), module)
    return model


def random_scales(width: int, group: ScalingGroup, seed: int) -> Tensor:
    """Return scales between 1/10 and 10."""
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return tie(10 ** (2 * drawn - 1), group)


def width_of(module: Any, group: ScalingGroup) -> int:
    consumer = module.get_submodule(group.consumers[0])
    return int(consumer.in_features if hasattr(consumer, "in_features") else consumer.weight.shape[0])


def fold_all(model: Any, found: list[ScalingGroup], powers: bool = False) -> int:
    family, folded = family_of(model.config.to_dict()), 0
    for group in found:
        places = [model] if group.inside == "model" else layers_of(model, family)
        for place in places:
            scales = random_scales(width_of(place, group), group, folded)
            fold(place, group, torch.exp2(scales.log2().round()) if powers else scales)
            folded += 1
    return folded


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_says_the_same_after_every_group_is_folded(family: str, tied: bool) -> None:
    model, found = in_float64(tiny_model(family, tied)), groups(family, tied)
    before, weights = said(model), [weight.clone() for weight in model.parameters()]
    count = fold_all(model, found)
    after = said(model)
    changed = sum(not torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert count >= len(layers_of(model, family_of(model.config.to_dict())))
    assert changed > count
    assert float((after - before).abs().max() / before.abs().max()) < 1e-10


@pytest.mark.parametrize("family", DECODERS)
def test_float32_models_say_the_same_up_to_rounding(family: str) -> None:
    model = tiny_model(family, tied=False, dtype=torch.float32)
    before = said(model)
    fold_all(model, groups(family, tied=False))
    assert float((said(model) - before).norm() / before.norm()) < 5e-6


@pytest.mark.parametrize("family", [family for family in DECODERS if not family.startswith("gemma")])
def test_powers_of_two_change_no_bit(family: str) -> None:
    model = tiny_model(family, tied=False, dtype=torch.float32)
    before = said(model)
    fold_all(model, groups(family, tied=False), powers=True)
    assert torch.equal(said(model), before)


@pytest.mark.parametrize("family", DECODERS)
def test_every_reader_of_a_norm_is_in_its_group(family: str) -> None:
    facts = family_of(tiny_config(family).to_dict())
    readers = {row.path for row in facts.layer if len(row.axes) == 2 and row.axes[row.incoming] == "hidden"}
    by_norm = [group for group in groups(family) if group.kind != "rows"]
    consumers = [path for group in by_norm for path in group.consumers]
    assert len(by_norm) == 2
    assert sorted(consumers) == sorted(readers)


@pytest.mark.parametrize("family", GATED)
def test_a_gated_layer_has_four_groups(family: str) -> None:
    assert [(group.consumers, group.producer) for group in groups(family)] == [
        (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "input_layernorm"),
        (("self_attn.o_proj",), "self_attn.v_proj"),
        (("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm"),
        (("mlp.down_proj",), "mlp.up_proj"),
    ]


def test_fused_projections_give_only_values_and_ups() -> None:
    found = {group.consumers[0]: group for group in groups("phi3")}
    # 4 query heads and 2 key/value heads of 8: values stand behind 32 + 16 rows; 48 gates stand before the ups.
    assert found["self_attn.o_proj"].rows == tuple(range(48, 64))
    assert found["mlp.down_proj"].rows == tuple(range(48, 96))
    by_head = {group.consumers[0]: group for group in groups("gpt_neox")}["attention.dense"]
    assert by_head.rows[:9] == (16, 17, 18, 19, 20, 21, 22, 23, 40)


@pytest.mark.parametrize("family", ENCODERS)
def test_encoders_have_values_alone_for_their_norms_are_the_stream(family: str) -> None:
    assert [group.kind for group in groups(family)] == ["rows"]


@pytest.mark.parametrize(
    ("family", "changes", "count"),
    [
        ("opt", {}, 4),
        ("opt", {"activation_function": "gelu"}, 3),
        ("gpt_neo", {}, 3),
        ("gpt_neo", {"activation_function": "relu"}, 4),
        ("bert", {"hidden_act": "relu"}, 2),
    ],
)
def test_a_plain_feed_forward_has_a_group_only_behind_relu(family: str, changes: dict[str, Any], count: int) -> None:
    model, found = tiny_model(family, **changes), groups(family, **changes)
    before = said(model)
    fold_all(model, found)
    assert len(found) == count
    assert float((said(model) - before).abs().max()) < 1e-9


def test_a_head_that_shares_the_embedding_has_no_group() -> None:
    heads = [[group for group in groups("llama", tied) if group.inside == "model"] for tied in (True, False)]
    assert heads == [[], [ScalingGroup(("lm_head",), "model.norm", "norm", "model")]]


def test_consumers_read_scaled_columns_and_values_make_divided_rows() -> None:
    model = tiny_model("llama")
    family = family_of(model.config.to_dict())
    layer, group = layers_of(model, family)[0], groups("llama")[1]
    o, v = (layer.get_submodule(path) for path in ("self_attn.o_proj", "self_attn.v_proj"))
    before, rows, bias = matrix(o, row_of(family, "self_attn.o_proj")).clone(), v.weight.clone(), v.bias.clone()
    scales = random_scales(32, group, 0)
    fold(layer, group, scales)
    assert torch.allclose(o.weight, before * scales)
    # Heads 0 and 1 read the first key/value head: 8 rows.
    shared = torch.cat([scales[:8], scales[16:24]])
    assert torch.allclose(v.weight, rows / shared[:, None])
    assert torch.allclose(v.bias, bias / shared)


def test_tied_scales_are_the_geometric_mean_over_a_group_of_heads() -> None:
    group = ScalingGroup(("o",), "v", "rows", repeats=2, head_dim=2)
    found = tie(torch.tensor([1.0, 2.0, 4.0, 8.0, 3.0, 3.0, 3.0, 3.0]), group)
    assert torch.allclose(found, torch.tensor([2.0, 4.0, 2.0, 4.0, 3.0, 3.0, 3.0, 3.0]))
    alone = torch.tensor([1.0, 5.0])
    assert tie(alone, replace(group, repeats=1)) is alone


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (torch.ones(31), r"^self_attn\.o_proj: 32 input channels need as many scales, found \(31,\)$"),
        (torch.zeros(32), r"^self_attn\.o_proj: scales must be finite and above 0$"),
        (torch.full((32,), torch.inf), r"^self_attn\.o_proj: scales must be finite and above 0$"),
        (
            torch.arange(1.0, 33),
            r"^self_attn\.o_proj: channels that repeat the same rows of self_attn\.v_proj must share a scale$",
        ),
    ],
)
def test_unfit_scales_are_refused_before_anything_changes(scales: Tensor, message: str) -> None:
    model = tiny_model("llama")
    layer = layers_of(model, family_of(model.config.to_dict()))[0]
    before = layer.self_attn.o_proj.weight.clone()
    with pytest.raises(ValueError, match=message):
        fold(layer, groups("llama")[1], scales)
    assert torch.equal(layer.self_attn.o_proj.weight, before)
