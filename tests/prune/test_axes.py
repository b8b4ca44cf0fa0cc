from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import transformers

from compress.models.families import Shape, cut_config, family_of, shape_of
from compress.models.skeleton import prove_shapes
from compress.prune.axes import fits, left_of, legal_heads, removed_columns, removed_count
from compress.prune.options import Removal
from tests.references.tiny_families import COUPLED, GROUPED, tiny_config

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 6,
    "intermediate_size": 512,
    "hidden_size": 192,
    "num_attention_heads": 6,
    "vocab_size": 4096,
}
QWEN: dict[str, Any] = {
    **LLAMA,
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "n_layer": 12,
    "n_embd": 768,
    "n_head": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
}
SHORT = {"rope_type": "longrope", "short_factor": [1.0] * 32, "long_factor": [1.0] * 32}
PHI: dict[str, Any] = {**LLAMA, "model_type": "phi3", "hidden_size": 512, "num_attention_heads": 8}
LONG_PHI: dict[str, Any] = {**PHI, "rope_parameters": SHORT}


def _left(config: dict[str, Any], remove: dict[str, Any]) -> Shape:
    return left_of(Removal.model_validate(remove), family_of(config), shape_of(config), config)


def _changes(config: dict[str, Any], remove: dict[str, Any]) -> dict[str, int]:
    before, after = vars(shape_of(config)), vars(_left(config, remove))
    return {size: after[size] for size in after if after[size] != before[size]}


TAKEN: list[tuple[dict[str, Any], dict[str, Any], dict[str, int]]] = [
    (LLAMA, {"layers": 2}, {"layers": 4}),
    (LLAMA, {"layers": 0.25}, {"layers": 4}),
    (LLAMA, {"ffn": 171}, {"ffn": 341}),
    (LLAMA, {"ffn": 0.25}, {"ffn": 384}),
    (LLAMA, {"vocab": 246}, {"vocabulary": 3850}),
    (LLAMA, {"vocab": 0.0601}, {"vocabulary": 3848}),
    # Every query head has a key/value head of its own: heads and groups are the same.
    (LLAMA, {"heads": 2}, {"heads": 4, "kv_heads": 4}),
    (LLAMA, {"heads": {"kv_groups": 2}}, {"heads": 4, "kv_heads": 4}),
    (LLAMA, {"heads": 0.5}, {"heads": 3, "kv_heads": 3}),
    # 5 of 6 heads do not divide 192: the nearest that do are 6 (nothing) and 4.
    (LLAMA, {"heads": 0.3}, {"heads": 4, "kv_heads": 4}),
    (LLAMA, {"heads": 1, "hidden": 32}, {"heads": 5, "kv_heads": 5, "hidden": 160}),
    (LLAMA, {"heads": 0.2, "hidden": 0.2}, {"heads": 5, "kv_heads": 5, "hidden": 160}),
    (LLAMA, {"hidden": 24}, {"hidden": 168}),
    # A multiple of 8 and of 6 heads.
    (LLAMA, {"hidden": 0.1}, {"hidden": 168}),
    (QWEN, {"heads": 2}, {"heads": 12}),
    (QWEN, {"heads": 7}, {"heads": 7, "kv_heads": 1}),
    (QWEN, {"heads": {"kv_groups": 1}}, {"heads": 7, "kv_heads": 1}),
    (QWEN, {"heads": {"kv_groups": 0.5}}, {"heads": 7, "kv_heads": 1}),
    (QWEN, {"heads": 0.5}, {"heads": 7, "kv_heads": 1}),
    (QWEN, {"heads": 0.4}, {"heads": 8}),
    (QWEN, {"heads": 0.25}, {"heads": 10}),
    (QWEN, {"heads": 0.99}, {"heads": 2}),
    (QWEN, {"hidden": 17}, {"hidden": 879}),
    (QWEN, {"hidden": 0.1}, {"hidden": 808}),
    (GPT2, {"ffn": 72}, {"ffn": 3000}),
    (GPT2, {"heads": 3}, {"heads": 9, "kv_heads": 9, "hidden": 576}),
    (GPT2, {"hidden": 192}, {"heads": 9, "kv_heads": 9, "hidden": 576}),
    (GPT2, {"hidden": 0.3}, {"heads": 8, "kv_heads": 8, "hidden": 512}),
    (GPT2, {"heads": 3, "hidden": 192}, {"heads": 9, "kv_heads": 9, "hidden": 576}),
    (GPT2, {"heads": 0.25, "hidden": 0.25}, {"heads": 9, "kv_heads": 9, "hidden": 576}),
    (PHI, {"heads": 1}, {"heads": 7, "kv_heads": 7}),
    (LONG_PHI, {"heads": 2, "hidden": 128}, {"heads": 6, "kv_heads": 6, "hidden": 384}),
    # Widths over heads are rounded down there.
    (LONG_PHI, {"heads": 2, "hidden": 123}, {"heads": 6, "kv_heads": 6, "hidden": 389}),
    (LONG_PHI, {"ffn": 12}, {"ffn": 500}),
]


@pytest.mark.parametrize(("config", "remove", "changes"), TAKEN, ids=[f"{c['model_type']} {r}" for c, r, _ in TAKEN])
def test_what_is_left(config, remove, changes):
    assert _changes(config, remove) == changes


@pytest.mark.parametrize(
    ("amount", "width", "removed"),
    [
        (171, 512, 171),
        (0.25, 512, 128),
        (1 / 3, 512, 168),
        (0.001, 512, 0),
        (0.999, 512, 504),
        (0.25, 48, 12),
        (0.1, 67, 3),
    ],
)
def test_counts_are_exact_and_fractions_keep_multiples_of_8(amount, width, removed):
    assert removed_columns(amount, width) == removed


def test_a_fraction_of_few_is_rounded_to_the_nearest():
    assert [removed_count(amount, 6) for amount in (2, 0.25, 0.3, 0.5)] == [2, 2, 2, 3]


def test_legal_heads_are_equally_many_of_every_group_or_whole_groups():
    shape = shape_of(QWEN)
    assert legal_heads(shape) == [(2, 2), (4, 2), (6, 2), (7, 1), (8, 2), (10, 2), (12, 2)]
    assert legal_heads(replace(shape, heads=6, kv_heads=6)) == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]
    assert legal_heads(replace(shape, heads=4, kv_heads=1)) == [(1, 1), (2, 1), (3, 1)]
    assert legal_heads(replace(shape, heads=1, kv_heads=1)) == []


ONE_HEAD = {**QWEN, "num_attention_heads": 1, "num_key_value_heads": 1, "hidden_size": 32}
REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        LLAMA,
        {"layers": 6},
        "remove.layers 6 would remove 6 of 6 layers; at least 1 must stay: use a count of at most 5",
    ),
    (
        LLAMA,
        {"layers": 0.95},
        "remove.layers 0.95 would remove 6 of 6 layers; at least 1 must stay: use a count of at most 5",
    ),
    (
        {**LLAMA, "num_hidden_layers": 1},
        {"layers": 1},
        "remove.layers 1 would remove 1 of 1 layers; at least 1 must stay: leave it out",
    ),
    (
        LLAMA,
        {"layers": 0},
        "remove.layers 0 removes 0 of 6 layers: nothing to remove; leave it out, or use a count of at least 1",
    ),
    (
        LLAMA,
        {"ffn": 0.001},
        "remove.ffn 0.001 removes 0 of 512 feed-forward columns: nothing to remove; leave it out, or use a count of at least 1",
    ),
    (
        LLAMA,
        {"ffn": 512},
        "remove.ffn 512 would remove 512 of 512 feed-forward columns; at least 1 must stay: use a count of at most 511",
    ),
    (
        LLAMA,
        {"vocab": 5000},
        "remove.vocab 5000 would remove 5000 of 4096 tokens; at least 1 must stay: use a count of at most 4095",
    ),
    (
        {**GPT2, "scale_attn_by_inverse_layer_idx": True},
        {"layers": 2},
        "remove.layers: with scale_attn_by_inverse_layer_idx in config.json a layer depends on its number; leave layers out",
    ),
    (
        QWEN,
        {"heads": 1},
        "remove.heads 1 would leave 13 of 14 query heads for 2 key/value heads; equally many must go from every group, or "
        "whole groups of 7: the nearest legal count is 2",
    ),
    (
        # 12 heads would be equally many of every group, but do not divide 896.
        {**QWEN, "model_type": "llama"},
        {"heads": 1},
        "remove.heads 1 would leave 13 of 14 query heads for 2 key/value heads; equally many must go from every group, or "
        "whole groups of 7: the nearest legal count is 6",
    ),
    (
        QWEN,
        {"heads": 13},
        "remove.heads 13 would leave 1 of 14 query heads for 2 key/value heads; equally many must go from every group, or "
        "whole groups of 7: the nearest legal count is 12",
    ),
    (
        QWEN,
        {"heads": 5},
        "remove.heads 5 would leave 9 of 14 query heads for 2 key/value heads; equally many must go from every group, or "
        "whole groups of 7: the nearest legal counts are 4 and 6",
    ),
    (
        QWEN,
        {"heads": 14},
        "remove.heads 14 would remove 14 of 14 query heads; at least 1 must stay: use a count of at most 12",
    ),
    (
        QWEN,
        {"heads": 0.05},
        "remove.heads 0.05 removes 0 of 14 query heads: nothing to remove; leave it out, or use a count of at least 2",
    ),
    (
        QWEN,
        {"heads": {"kv_groups": 2}},
        "remove.heads.kv_groups 2 would remove 2 of 2 key/value groups; at least 1 must stay: use a count of at most 1",
    ),
    (
        ONE_HEAD,
        {"heads": 1},
        "remove.heads 1 would remove 1 of 1 query heads; at least 1 must stay: leave it out",
    ),
    (ONE_HEAD, {"heads": 0.5}, "remove.heads 0.5 removes 0 of 1 query heads: nothing to remove; leave it out"),
    (
        LLAMA,
        {"heads": 1},
        "remove.heads leaves 5 query heads beside a width of 192, and a llama config needs a width that its heads divide: "
        "the nearest legal count is 2, or remove.hidden 2, which leaves a width of 190",
    ),
    (
        LLAMA,
        {"heads": 0.1},
        "remove.heads 0.1 removes 0 of 6 query heads: nothing to remove; leave it out, or use a count of at least 2",
    ),
    (
        LLAMA,
        {"hidden": 16},
        "remove.hidden 16 would leave a width of 176, and a llama config needs a multiple of its 6 query heads: the nearest "
        "legal counts are 12 and 18",
    ),
    (
        LLAMA,
        {"heads": 2, "hidden": 1},
        "remove.hidden 1 would leave a width of 191, and a llama config needs a multiple of its 4 query heads: the nearest "
        "legal count is 4",
    ),
    (
        LLAMA,
        {"hidden": 192},
        "remove.hidden 192 would remove 192 of 192 channels; at least 1 must stay: use a count of at most 186",
    ),
    (
        LLAMA,
        {"hidden": 0.01},
        "remove.hidden 0.01 removes 0 of 192 channels: nothing to remove; leave it out, or use a count of at least 6",
    ),
    (
        GPT2,
        {"hidden": 100},
        "remove.hidden 100: hidden width and heads shrink together here, by 64 channels for each head: the nearest legal "
        "counts are 64 and 128",
    ),
    (
        GPT2,
        {"hidden": 768},
        "remove.hidden 768 would remove 768 of 768 channels; at least 1 must stay: use a count of at most 704",
    ),
    (
        GPT2,
        {"hidden": 0.01},
        "remove.hidden 0.01 removes 0 of 768 channels: nothing to remove; leave it out, or use a count of at least 64",
    ),
    (
        GPT2,
        {"heads": 12},
        "remove.heads 12 would remove 12 of 12 heads; at least 1 must stay: use a count of at most 11",
    ),
    (
        GPT2,
        {"heads": {"kv_groups": 1}},
        "remove.heads.kv_groups: every query head has a key/value head of its own; give a count of heads",
    ),
    (
        GPT2,
        {"heads": 2, "hidden": 192},
        "remove.heads takes 2 heads and remove.hidden 3; here heads and hidden width shrink together, give one of the two",
    ),
    (
        LONG_PHI,
        {"heads": 2},
        "remove leaves a width of 512 beside 6 query heads, and a phi3 config with short and long rope factors needs 64 "
        "channels for each head: the nearest legal are heads 2 and hidden 128, or leave heads and hidden out",
    ),
    (
        LONG_PHI,
        {"hidden": 0.25},
        "remove leaves a width of 384 beside 8 query heads, and a phi3 config with short and long rope factors needs 64 "
        "channels for each head: the nearest legal are heads 2 and hidden 128, or leave heads and hidden out",
    ),
    (
        QWEN,
        {"layers": 6, "ffn": 0, "vocab": 4096, "heads": 1, "hidden": 896},
        "remove.layers 6 would remove 6 of 6 layers; at least 1 must stay: use a count of at most 5; "
        "remove.ffn 0 removes 0 of 512 feed-forward columns: nothing to remove; leave it out, or use a count of at least 1; "
        "remove.vocab 4096 would remove 4096 of 4096 tokens; at least 1 must stay: use a count of at most 4095; "
        "remove.heads 1 would leave 13 of 14 query heads for 2 key/value heads; equally many must go from every group, or "
        "whole groups of 7: the nearest legal count is 2; "
        "remove.hidden 896 would remove 896 of 896 channels; at least 1 must stay: use a count of at most 895",
    ),
    (
        GPT2,
        {"heads": 0, "hidden": 1},
        "remove.heads 0 removes 0 of 12 heads: nothing to remove; leave it out, or use a count of at least 1; "
        "remove.hidden 1: hidden width and heads shrink together here, by 64 channels for each head: the nearest legal count "
        "is 64",
    ),
]


@pytest.mark.parametrize(
    ("config", "remove", "message"), REFUSED, ids=[f"{c['model_type']} {r}" for c, r, _ in REFUSED]
)
def test_what_is_refused_names_the_nearest_legal_counts(config, remove, message):
    with pytest.raises(ValueError, match=r".") as caught:
        _left(config, remove)
    assert str(caught.value) == message


def _built(config: dict[str, Any]) -> bool:
    try:
        transformers.AutoConfig.for_model(**config)
    except Exception as error:  # noqa: BLE001 - transformers raises several kinds without a base of their own
        return not re.search("multiple of the number of attention heads|factor field must have length", str(error))
    return True


@pytest.mark.parametrize("family", [*GROUPED, "phi3 with long factors"])
def test_what_fits_is_what_the_config_class_takes(family):
    config = tiny_config(family.split(maxsplit=1)[0]).to_dict()
    if "long" in family:
        factors = {"short_factor": [1.0] * 4, "long_factor": [1.0] * 4}
        rope = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 1.0, "factor": 2.0, **factors}
        config = {**config, "rope_parameters": rope}
    shape, row = shape_of(config), family_of(config)
    seen = set()
    for hidden in (15, 16, 17, 24, 30, 32):
        for heads, kv_heads in [*legal_heads(shape), (4, 2)]:
            after = replace(shape, hidden=hidden, heads=heads, kv_heads=kv_heads)
            seen.add(fits(row, config, after))
            assert fits(row, config, after) == _built(cut_config(config, after)), after
    assert seen == ({True, False} if row.whole_heads or "long" in family else {True})


@pytest.mark.parametrize("family", COUPLED)
def test_coupled_sizes_build_too(family):
    config = tiny_config(family).to_dict()
    left = _left(config, {"heads": 1, "ffn": 5, "layers": 1})
    assert (left.heads, left.hidden, left.ffn) == (3, 24, 43)
    prove_shapes(cut_config(config, left))
